# SPDX-License-Identifier: Apache-2.0
"""/1.0/events: operation, lifecycle and logging events over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import weakref

from aiohttp import WSCloseCode, WSMsgType, web

from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import BadRequest, Forbidden
from nova_lxd.lxd.events import Listener

#: The open sockets of an application; nobody but the server's end closes those of quiet clients.
OPEN: web.AppKey[weakref.WeakSet[web.WebSocketResponse]] = web.AppKey("event sockets")

_TYPES = ("logging", "operation", "lifecycle")


@route("GET", "/1.0/events")
async def get_events(request: Request) -> web.StreamResponse:
    """Subscribe to events; ``type`` limits them to some kinds."""
    types = [t for t in request.query("type").split(",") if t] or list(_TYPES)
    for name in types:
        if name not in _TYPES:
            raise BadRequest(f'"{name}" isn\'t a supported event type')
    if request.all_projects:
        if request.identity.restricted:
            raise Forbidden("Listening to all projects failed: the certificate is restricted")
        project = None
    else:
        project = request.project().name
    socket = web.WebSocketResponse(compress=False, heartbeat=30)
    if not socket.can_prepare(request.http):
        raise BadRequest("websocket: not a websocket handshake")
    await socket.prepare(request.http)
    request.http.app[OPEN].add(socket)
    # The log and the server's own operations (whose metadata may be a join token) are not for
    # clients that are restricted to some projects; neither is of a project.
    listener = request.services.events.listen(
        types, project, server_wide=not request.identity.restricted
    )
    sender = asyncio.create_task(_send(socket, listener))
    try:
        async for message in socket:
            if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
                break
    finally:
        request.services.events.leave(listener)
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sender
    return socket


async def close_all(app: web.Application) -> None:
    """Tell every listener that the server goes; it would wait for them otherwise."""
    sockets = app[OPEN]
    for socket in list(sockets):
        with contextlib.suppress(ConnectionError):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops")


async def _send(socket: web.WebSocketResponse, listener: Listener) -> None:
    while (event := await listener.next()) is not None:
        await socket.send_frame(event, WSMsgType.TEXT)
    await socket.close(
        code=WSCloseCode.TRY_AGAIN_LATER, message=b"events were lost: read faster, then resync"
    )
