# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/console: attach to the console, read and clear its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope, streams
from nova_lxd.lxd.api.instance_exec import resources
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.api.sockets import Sockets
from nova_lxd.lxd.api.streams import Descriptor
from nova_lxd.lxd.errors import BadRequest, NotFound, attempting
from nova_lxd.lxd.host import terminal
from nova_lxd.lxd.instances.exec import require_running
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.startconfig import CONSOLE_LOG
from nova_lxd.lxd.operations import Operation


class ConsolePost(msgspec.Struct):
    """Body of POST /1.0/instances/NAME/console."""

    width: int = 0
    height: int = 0
    type: str = "console"
    force: bool = False


def _instance(request: Request) -> Instance:
    return request.services.instances.get(request.project().name, request.path("name"))


@route("GET", "/1.0/instances/{name}/console")
@route("GET", "/1.0/containers/{name}/console")
async def get_console_log(request: Request) -> web.StreamResponse:
    """Read the console's log, of a stopped instance too."""
    instance = _instance(request)
    data = await request.run(_log, request, instance)
    return web.Response(
        body=data,
        content_type="application/octet-stream",
        headers={"Content-Disposition": "inline;filename="},
    )


def _log(request: Request, instance: Instance) -> bytes:
    """What liblxc's monitor wrote; its ring buffer would be empty after the first reading."""
    with attempting(f"Reading the console log of {instance}"):
        try:
            return _saved(request, instance).read_bytes()
        except FileNotFoundError as exc:
            raise NotFound(
                f"Reading the console log of {instance} failed: there is none yet"
            ) from exc


def _saved(request: Request, instance: Instance) -> Path:
    return request.services.paths.log(instance.project, instance.name) / CONSOLE_LOG


@route("DELETE", "/1.0/instances/{name}/console")
@route("DELETE", "/1.0/containers/{name}/console")
async def delete_console_log(request: Request) -> web.StreamResponse:
    """Clear the console's log."""
    instance = _instance(request)
    await request.run(_clear, request, instance)
    return envelope.sync()


def _clear(request: Request, instance: Instance) -> None:
    with (
        attempting(f"Clearing the console log of {instance}"),
        contextlib.suppress(FileNotFoundError),
    ):
        os.truncate(_saved(request, instance), 0)  # the monitor appends to it


@route("POST", "/1.0/instances/{name}/console", body=ConsolePost)
@route("POST", "/1.0/containers/{name}/console", body=ConsolePost)
async def post_console(request: Request) -> web.StreamResponse:
    """Attach to the console of a running instance."""
    body = await request.body(ConsolePost)
    instance = _instance(request)
    if body.type not in ("", "console"):
        raise BadRequest(f"Attaching failed: containers have no {body.type[:32]!r} console")
    require_running(instance)
    session = ConsoleSession(request, instance, body)
    op = request.services.operations.websocket(
        instance.project,
        "Showing console",
        session.run,
        session.connect,
        resources=resources(instance.name),
        metadata={"fds": session.sockets.secrets},
        requestor=request.requestor,
    )
    return envelope.operation(op)


class ConsoleSession:
    """One client on the console: WebSocket 0 carries it, control resizes and ends it."""

    def __init__(self, request: Request, instance: Instance, body: ConsolePost) -> None:
        self._request = request
        self._instance = instance
        self._body = body
        self.sockets = Sockets(("0",), ("control",))
        self._closing = asyncio.Event()
        self._master: Descriptor | None = None

    async def connect(self, secret: str, pending: Any) -> None:
        """Take one WebSocket; returns when the session is over."""
        name, socket = await self.sockets.accept(secret, pending)
        if name == "control":
            await streams.drain(socket, self._control)
            self._closing.set()  # lxc closes control to detach
            return
        await self.sockets.until_over()

    def _control(self, text: str) -> None:
        with contextlib.suppress(*streams.UNUSABLE, OSError):
            message = msgspec.json.decode(text, type=dict)
            if message["command"] == "window-resize" and self._master is not None:
                size = message["args"]
                terminal.resize(self._master.fd, int(size["height"]), int(size["width"]))

    async def run(self, _op: Operation) -> Mapping[str, Any] | None:
        """Pump between the console and the client until one of them ends."""
        try:
            await self.sockets.wait()
            await self._pump()
            return None
        finally:
            await self.sockets.close()

    async def _pump(self) -> None:
        services = self._request.services
        fd, claim = await self._request.run(
            services.instances.ctx.liblxc.console, self._instance.stored_name, services.paths.run
        )
        master = self._master = Descriptor(fd)
        socket = self.sockets["0"]
        try:
            if self._body.width and self._body.height:
                terminal.resize(fd, self._body.height, self._body.width)
            never = asyncio.Event()
            tasks = {
                asyncio.create_task(streams.to_socket(master, socket, never)),
                asyncio.create_task(streams.from_socket(socket, master, close_at_end=False)),
                asyncio.create_task(self._closing.wait()),
            }
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:  # cancelled or not, nobody may use the descriptor once it is closed
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await streams.send_end(socket)
        finally:
            self._master = None
            master.close()
            os.close(claim)
