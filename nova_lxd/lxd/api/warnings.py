# SPDX-License-Identifier: Apache-2.0
"""/1.0/warnings."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.envelope import timestamp
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.warnings import Warning


class WarningPut(msgspec.Struct):
    """Body of PUT and PATCH /1.0/warnings/UUID."""

    status: str = ""


def _to_api(warning: Warning) -> dict[str, Any]:
    return {
        "uuid": warning.uuid,
        "location": "none",
        "project": warning.project,
        "type": warning.type,
        "count": warning.count,
        "first_seen_at": timestamp(warning.first_seen_at),
        "last_seen_at": timestamp(warning.last_seen_at),
        "last_message": warning.last_message,
        "status": warning.status,
        "severity": warning.severity,
        "entity_url": warning.entity_url,
    }


@route("GET", "/1.0/warnings", admin=True)
async def get_warnings(request: Request) -> web.StreamResponse:
    """List the warnings."""
    project = request.query("project") or None
    items = [_to_api(w) for w in request.services.warnings.all(project)]
    items = apply_filter(items, request.query("filter"))
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([f"/1.0/warnings/{item['uuid']}" for item in items])


@route("GET", "/1.0/warnings/{uuid}", admin=True)
async def get_warning(request: Request) -> web.StreamResponse:
    """Show one warning."""
    return envelope.sync(_to_api(request.services.warnings.get(request.path("uuid"))))


@route("PUT", "/1.0/warnings/{uuid}", body=WarningPut, admin=True)
@route("PATCH", "/1.0/warnings/{uuid}", body=WarningPut, admin=True)
async def put_warning(request: Request) -> web.StreamResponse:
    """Acknowledge a warning, or make it new again."""
    body = await request.body(WarningPut)
    await request.run(request.services.warnings.set_status, request.path("uuid"), body.status)
    return envelope.sync()


@route("DELETE", "/1.0/warnings/{uuid}", admin=True)
async def delete_warning(request: Request) -> web.StreamResponse:
    """Forget a warning."""
    await request.run(request.services.warnings.delete, request.path("uuid"))
    return envelope.sync()
