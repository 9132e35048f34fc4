# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: sockets, TLS, authorisation, and the way from an exception to the envelope."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from aiohttp import web

from nova_lxd.lxd.addresses import DEFAULT_PORT, METRICS_PORT
from nova_lxd.lxd.api import envelope, events, tls
from nova_lxd.lxd.api.auth import identify
from nova_lxd.lxd.api.listener import HttpsListener
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import ROUTES, Route
from nova_lxd.lxd.api.turns import Turns
from nova_lxd.lxd.errors import InternalError, LXDError
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.services import Services

LOG = logging.getLogger(__name__)
_CHANGES = ("PUT", "PATCH")
_METRICS_PATHS = ("/", "/1.0/metrics")
_AiohttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _gone(http: web.Request) -> bool:
    """Has the client hung up?"""
    return http.transport is None or http.transport.is_closing()


class Server:
    """Listens on LXD_DIR/unix.socket and, when their keys are set, on HTTPS.

    ``core.https_address`` serves the whole API, ``core.metrics_address`` the metrics alone.
    """

    def __init__(self, services: Services, group: str | None) -> None:
        self._services = services
        self._group = group
        self._runners: list[web.AppRunner] = []
        self._turns = Turns()
        self._unix_socket: socket.socket | None = None
        self.listeners: dict[str, HttpsListener] = {}
        """The HTTPS listeners by the configuration key of their address."""

    async def start(self) -> None:
        """Open the unix socket (mode 0660, owned by the group) and serve; HTTPS is closed yet."""
        runner = await self._serve(ROUTES)
        metrics = await self._serve(r for r in ROUTES if r.path in _METRICS_PATHS)
        self.listeners = {
            "core.https_address": HttpsListener(runner, self._ssl_context, DEFAULT_PORT),
            "core.metrics_address": HttpsListener(metrics, self._ssl_context, METRICS_PORT),
        }
        self._unix_socket = self._bind_unix(self._services.paths.socket)
        await web.SockSite(runner, self._unix_socket, backlog=512).start()

    async def _serve(self, routes: Iterable[Route]) -> web.AppRunner:
        app = web.Application(client_max_size=2**62)
        for entry in routes:
            app.router.add_route(entry.method, entry.path, self._handler(entry))
        app.router.add_route("*", "/{tail:.*}", self._not_found)
        app.on_response_prepare.append(self._allow_origin)
        app[events.OPEN] = weakref.WeakSet()
        app.on_shutdown.append(events.close_all)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._runners.append(runner)
        return runner

    def _gid(self) -> int:
        """The group that may use the socket.

        :raises InternalError: there is no such group.
        """
        if not self._group:
            return 0
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError as exc:
            raise InternalError(
                f"Opening the unix socket failed: there is no group {self._group!r}; make it with "
                "groupadd, or name another with --group"
            ) from exc

    def _bind_unix(self, path: Path) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A group's members are root on this host, so nobody may connect before the mode is right.
        previous = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
        gid = self._gid()
        os.chown(path, 0, gid)
        path.chmod(0o660)
        sock.setblocking(False)
        return sock

    def _ssl_context(self) -> ssl.SSLContext:
        paths = self._services.paths
        return tls.server_context(paths.server_cert, paths.server_key)

    async def stop(self) -> None:
        """Close the listeners and the connections; idempotent."""
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()

    async def _allow_origin(self, http: web.Request, response: web.StreamResponse) -> None:
        """Tell a browser what scripts of other sites may do (``core.https_allowed_*``)."""
        config = self._services.config
        origin = config.get("core.https_allowed_origin")
        if not origin or "Origin" not in http.headers:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        for name in ("methods", "headers"):
            if value := config.get(f"core.https_allowed_{name}"):
                response.headers[f"Access-Control-Allow-{name.capitalize()}"] = value
        if is_true(config.get("core.https_allowed_credentials")):
            response.headers["Access-Control-Allow-Credentials"] = "true"

    def _handler(self, entry: Route) -> _AiohttpHandler:
        async def handle(http: web.Request) -> web.StreamResponse:
            try:
                return await self._answer(entry, http)
            except LXDError as exc:
                return envelope.from_exception(exc)
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                if isinstance(exc, ConnectionError) and _gone(http):
                    raise
                LOG.exception("%s %s failed unexpectedly", http.method, http.path)
                return envelope.error(
                    500, f"{http.method} {http.path} failed: see the daemon's log for the cause"
                )

        return handle

    async def _answer(self, entry: Route, http: web.Request) -> web.StreamResponse:
        identity = identify(http, self._services.db)
        if not entry.public and not identity.trusted:
            return envelope.error(403, "not authorized")
        if entry.local and not identity.local:
            return envelope.error(403, "not authorized")
        if entry.admin and identity.restricted:
            return envelope.error(403, "Certificate is restricted")
        if not entry.early:
            await self._services.ready.wait()
        request = Request(http, self._services, identity)
        if entry.body is None or entry.method not in _CHANGES:
            return await entry.handler(request)
        # Two clients must not both find an object unchanged, or one lose what the other has merged
        # into it.  A slow client's body is waited for before.
        await request.raw_body()
        async with self._turns.of((http.path, request.project_name)):
            return await entry.handler(request)

    async def _not_found(self, http: web.Request) -> web.StreamResponse:
        """A path that is not there, or one that has no such method (LXD: 501)."""
        if http.method == "OPTIONS":  # a browser asks for the headers alone
            return web.Response()
        for resource in http.app.router.resources():
            if resource.canonical == "/{tail}":
                continue
            _match, methods = await resource.resolve(http)
            if methods:
                return envelope.error(501, "not implemented")
        return envelope.error(404, "not found")
