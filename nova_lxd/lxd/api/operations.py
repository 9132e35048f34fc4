# SPDX-License-Identifier: Apache-2.0
"""/1.0/operations."""

from __future__ import annotations

import hmac
from typing import Any

from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import BadRequest, Forbidden, NotFound
from nova_lxd.lxd.operations import STATUS_TEXT, Operation

# A clock of the event loop counts no further than this, in seconds.
_MOST_WAIT = 10 * 365 * 86400


def _may_see(request: Request, op: Operation) -> bool:
    """Restricted clients see what runs in their projects, not the server's own operations: the
    metadata of a join token's is the token.
    """
    if not op.project:
        return request.trusted and not request.identity.restricted
    return request.trusted and request.identity.may_use(op.project)


def _operation(request: Request) -> Operation:
    op = request.services.operations.get(request.path("id"))
    if not _may_see(request, op):
        raise NotFound(f"Operation {op.id!r} not found")
    return op


@route("GET", "/1.0/operations")
async def get_operations(request: Request) -> web.StreamResponse:
    """List the operations by status."""
    project = None if request.all_projects else request.project().name
    groups: dict[str, list[Any]] = {}
    for op in request.services.operations.visible(project):
        if not _may_see(request, op):
            continue
        shown = op.to_api() if request.recursion else op.url
        groups.setdefault(STATUS_TEXT[op.status].lower(), []).append(shown)
    return envelope.sync(groups)


@route("GET", "/1.0/operations/{id}")
async def get_operation(request: Request) -> web.StreamResponse:
    """Show one operation."""
    return envelope.sync(_operation(request).to_api())


@route("DELETE", "/1.0/operations/{id}")
async def delete_operation(request: Request) -> web.StreamResponse:
    """Cancel an operation."""
    op = _operation(request)
    await request.run(request.services.operations.cancel, op)
    return envelope.sync()


@route("GET", "/1.0/operations/{id}/wait", public=True)
async def wait_operation(request: Request) -> web.StreamResponse:
    """Wait for an operation's end, at most ``timeout`` seconds (-1: for ever).

    An untrusted client must give the operation's secret.
    """
    op = request.services.operations.get(request.path("id"))
    secret = request.query("secret")
    if not _may_see(request, op):
        known = str((op.metadata or {}).get("secret", ""))
        if not secret or not hmac.compare_digest(secret.encode(), known.encode()):
            raise Forbidden("not authorized")
    try:
        seconds = int(request.query("timeout") or -1)
    except ValueError as exc:
        raise BadRequest("Waiting for the operation failed: timeout is no number") from exc
    await request.services.operations.wait(op, None if seconds < 0 else min(seconds, _MOST_WAIT))
    return envelope.sync(op.to_api())


@route("GET", "/1.0/operations/{id}/websocket", public=True)
async def connect_operation(request: Request) -> web.StreamResponse:
    """Connect a WebSocket of an operation by its secret."""
    secret = request.query("secret")
    if not secret:
        raise BadRequest("missing secret")
    op = request.services.operations.get(request.path("id"))
    if op.connect is None:
        raise BadRequest(f"Connecting to operation {op.id} failed: it has no WebSocket")
    socket = web.WebSocketResponse(compress=False, max_msg_size=0, autoping=True)
    await op.connect(secret, _Pending(request.http, socket))
    return socket


class _Pending:
    """A WebSocket that is accepted only after its secret has been checked."""

    def __init__(self, http: web.Request, socket: web.WebSocketResponse) -> None:
        self._http = http
        self._socket = socket

    async def accept(self) -> web.WebSocketResponse:
        """Complete the handshake."""
        await self._socket.prepare(self._http)
        return self._socket
