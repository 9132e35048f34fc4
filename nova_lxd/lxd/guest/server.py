# SPDX-License-Identifier: Apache-2.0
"""/dev/lxd/sock: the API for guests (LXD doc "devlxd"), which cloud-init's LXD source reads.

Every container sees the same socket; who asks is told by the kernel.  Answers are bare JSON or
text, not LXD's envelope.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import WSMsgType, web

from nova_lxd.lxd.errors import BadRequest, Forbidden, LXDError, NotFound, TooLarge
from nova_lxd.lxd.events import guest_channel
from nova_lxd.lxd.guest.door import Door
from nova_lxd.lxd.instances import guestapi
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.services import Services

LOG = logging.getLogger(__name__)
_Handler = Callable[[web.Request, Instance], Awaitable[web.StreamResponse]]
T = TypeVar("T")
_MOST_BODY = 1 << 20
_STATES = ("Started", "Ready")
_BACKLOG = 512
# A connection that asks for nothing more is closed, after so many seconds.
_IDLE = 75.0


def _text(body: str, status: int = 200) -> web.Response:
    return web.Response(text=body, status=status, content_type="application/octet-stream")


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


class GuestServer:
    """The server behind /dev/lxd/sock of every container."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._door = Door(partial(guestapi.payload, services.paths.cgroup))
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Open the socket; guests may connect, whoever they are."""
        app = web.Application(client_max_size=_MOST_BODY)
        table: tuple[tuple[str, str, _Handler], ...] = (
            ("GET", "/", self._root),
            ("GET", "/1.0", self._server),
            ("PATCH", "/1.0", self._set_state),
            ("GET", "/1.0/config", self._config),
            ("GET", "/1.0/config/{key}", self._config_key),
            ("GET", "/1.0/devices", self._devices),
            ("GET", "/1.0/meta-data", self._meta_data),
            ("GET", "/1.0/events", self._events),
            ("GET", "/1.0/images/{fingerprint}/export", self._image),
        )
        for method, path, handler in table:
            app.router.add_route(method, path, self._guarded(handler))
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, keepalive_timeout=_IDLE
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._door.open(self._runner.server)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            self._door.protocol, sock=self._bind(), backlog=_BACKLOG
        )

    def _bind(self) -> socket.socket:
        path: Path = self._services.paths.devlxd / "sock"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        path.chmod(0o666)
        sock.setblocking(False)
        return sock

    async def stop(self) -> None:
        """Close the socket and its connections."""
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _guarded(
        self, handler: _Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request, await self._caller(request))
            except LXDError as exc:
                return _text(exc.message, exc.status)
            except (ConnectionResetError, asyncio.CancelledError):
                raise
            except Exception:
                LOG.exception("%s %s of a guest failed unexpectedly", request.method, request.path)
                return _text("the request failed; ask the host's administrator", 500)

        return handle

    async def _caller(self, request: web.Request) -> Instance:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        guest = self._door.guest(transport)
        if guest is None:
            raise ConnectionResetError
        return guestapi.caller(self._services.instances, guest)

    async def _run(self, fn: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._services.executor, fn, *args)

    async def _expanded(self, instance: Instance) -> Expanded:
        return await self._run(guestapi.expanded, self._services.instances, instance)

    async def _root(self, _request: web.Request, instance: Instance) -> web.StreamResponse:
        await self._expanded(instance)
        return _json(["/1.0"])

    async def _server(self, _request: web.Request, instance: Instance) -> web.StreamResponse:
        await self._expanded(instance)
        return _json(
            {
                "api_version": "1.0",
                "location": "none",
                "instance_type": "container",
                "state": "Started",
            }
        )

    async def _set_state(self, request: web.Request, instance: Instance) -> web.StreamResponse:
        await self._expanded(instance)
        try:
            body = msgspec.json.decode(await request.read(), type=dict)
        except web.HTTPRequestEntityTooLarge as exc:
            raise TooLarge(f"Decoding the body failed: it is over {_MOST_BODY} bytes") from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BadRequest(f"Decoding the body failed: {exc}") from exc
        if body.get("state") not in _STATES:
            raise BadRequest(f"Invalid state: use one of {', '.join(_STATES)}")
        if body["state"] == "Ready":
            self._services.instances.announce("instance-ready", instance)
        return _text("")

    async def _config(self, _request: web.Request, instance: Instance) -> web.StreamResponse:
        config = (await self._expanded(instance)).config
        return _json([f"/1.0/config/{key}" for key in sorted(guestapi.visible(config))])

    async def _config_key(self, request: web.Request, instance: Instance) -> web.StreamResponse:
        config = (await self._expanded(instance)).config
        return _text(guestapi.config_value(config, request.match_info["key"]))

    async def _devices(self, _request: web.Request, instance: Instance) -> web.StreamResponse:
        return _json((await self._expanded(instance)).devices)

    async def _meta_data(self, _request: web.Request, instance: Instance) -> web.StreamResponse:
        config = (await self._expanded(instance)).config
        return _text(guestapi.meta_data(instance, config))

    async def _image(self, request: web.Request, instance: Instance) -> web.StreamResponse:
        config = (await self._expanded(instance)).config
        if not is_true(config.get("security.devlxd.images")):
            raise Forbidden("not authorized")
        images = self._services.images
        project = images.project_for(instance.project)
        image = images.get(project, request.match_info["fingerprint"])
        if not (image.public or image.cached):
            raise NotFound("not found")
        if images.store.rootfs(image.fingerprint) is not None:
            raise BadRequest("Exporting the image failed: it is split; use a unified one")
        return web.FileResponse(images.store.path(image.fingerprint))

    async def _events(self, request: web.Request, instance: Instance) -> web.StreamResponse:
        await self._expanded(instance)
        wanted = {kind for kind in request.query.get("type", "").split(",") if kind}
        if wanted - {"config", "device"}:
            raise BadRequest("Invalid event type: guests see config and device")
        websocket = web.WebSocketResponse(compress=False, heartbeat=30)
        await websocket.prepare(request)
        listener = self._services.events.listen([guest_channel(instance.id)], None)

        async def send() -> None:
            while (event := await listener.next()) is not None:
                if not wanted or msgspec.json.decode(event)["type"] in wanted:
                    await websocket.send_frame(event, WSMsgType.TEXT)
            await websocket.close(message=b"events were lost: read faster, then resync")

        sender = asyncio.create_task(send())
        try:
            async for _message in websocket:
                pass
        finally:
            self._services.events.leave(listener)
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sender
        return websocket
