# SPDX-License-Identifier: Apache-2.0
"""/1.0/cluster: this server is never part of a cluster, and says so."""

from __future__ import annotations

from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import BadRequest, InternalError


@route("GET", "/1.0/cluster")
async def get_cluster(_request: Request) -> web.StreamResponse:
    """Tell that the server is not clustered."""
    state = {"server_name": "", "enabled": False, "member_config": []}
    return envelope.sync(state, etag_fields=state)


@route("PUT", "/1.0/cluster")
async def put_cluster(_request: Request) -> web.StreamResponse:
    """Refuse: this server forms no clusters."""
    raise BadRequest("This server cannot be part of a cluster; use one server per host")


@route("GET", "/1.0/cluster/members")
async def get_members(_request: Request) -> web.StreamResponse:
    """Refuse: there are no members without a cluster."""
    raise InternalError("Server is not clustered")
