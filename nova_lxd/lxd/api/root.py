# SPDX-License-Identifier: Apache-2.0
"""/ and /1.0: the server, its configuration and its environment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.schema.extensions import API_EXTENSIONS

_BASE = {
    "api_extensions": API_EXTENSIONS,
    "api_status": "stable",
    "api_version": "1.0",
    "public": False,
    "auth_methods": ["tls"],
}


class ServerPut(msgspec.Struct):
    """Body of PUT and PATCH /1.0; booleans are taken as their text, as LXD does."""

    config: dict[str, str | bool | None] | None = None


def _texts(config: Mapping[str, str | bool | None] | None) -> dict[str, str]:
    result = {}
    for key, value in (config or {}).items():
        if isinstance(value, bool):
            result[key] = "true" if value else "false"
        else:
            result[key] = value or ""
    return result


@route("GET", "/", public=True, early=True)
async def get_root(_request: Request) -> web.StreamResponse:
    """List the API's versions."""
    return envelope.sync(["/1.0"])


@route("GET", "/1.0", public=True, early=True)
async def get_server(request: Request) -> web.StreamResponse:
    """Show the server: everything to trusted clients, what it speaks to others."""
    if not request.trusted:
        return envelope.sync({**_BASE, "auth": "untrusted"})
    project = request.project_name  # not checked for existence: LXD does not either
    config: Mapping[str, Any] = (
        {} if request.identity.restricted else request.services.config.shown()
    )
    metadata = {
        "config": config,
        **_BASE,
        "auth": "trusted",
        "environment": request.services.environment.to_api(project),
    }
    return envelope.sync(metadata, etag_fields=request.services.config.shown())


@route("PUT", "/1.0", body=ServerPut, admin=True)
async def put_server(request: Request) -> web.StreamResponse:
    """Replace the server's configuration."""
    return await _change(request, merge=False)


@route("PATCH", "/1.0", body=ServerPut, admin=True)
async def patch_server(request: Request) -> web.StreamResponse:
    """Change some keys of the server's configuration."""
    return await _change(request, merge=True)


async def _change(request: Request, *, merge: bool) -> web.StreamResponse:
    services = request.services
    request.check_etag(services.config.shown())
    changes = _texts((await request.body(ServerPut)).config)
    apply = services.config.update if merge else services.config.replace
    await request.run(partial(apply, changes))
    services.events.lifecycle("config-updated", "/1.0", "", requestor=request.requestor)
    return envelope.sync()


@route("GET", "/1.0/resources")
async def get_resources(request: Request) -> web.StreamResponse:
    """Show the host's hardware."""
    from nova_lxd.lxd.host import resources

    return envelope.sync(await request.attempt("Reading the host's resources", resources.collect))


@route("GET", "/internal/ready", local=True, early=True)
async def get_ready(request: Request) -> web.StreamResponse:
    """Tell whether the daemon has finished starting."""
    if not request.services.ready.is_set():
        return envelope.error(503, "LXD daemon not ready yet")
    return envelope.sync({})


@route("PUT", "/internal/shutdown", local=True)
async def put_shutdown(request: Request) -> web.StreamResponse:
    """Stop the instances, then the daemon; answered when the instances are down.

    Operations may end first unless ``force`` is given, as in LXD.
    """
    services = request.services
    if request.query_bool("force"):
        services.ending.hurry()
    await services.ending.wait_for_operations()
    await request.run(services.instances.shutdown_all)
    asyncio.get_running_loop().call_later(0.1, services.power_down)
    return envelope.sync()
