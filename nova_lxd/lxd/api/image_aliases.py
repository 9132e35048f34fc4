# SPDX-License-Identifier: Apache-2.0
"""/1.0/images/aliases."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.images import images_project, may_see_private
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.images import Alias
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.schema.images import (
    ImageAliasesPost,
    ImageAliasPatch,
    ImageAliasPost,
    ImageAliasPut,
)


def _to_api(alias: Alias) -> dict[str, Any]:
    """LXD's ImageAliasesEntry object."""
    return {
        "description": alias.description,
        "target": alias.fingerprint,
        "name": alias.name,
        "type": alias.type,
    }


def _location(name: str) -> str:
    return f"/1.0/images/aliases/{quote(name, safe='')}"


def _alias(request: Request) -> Alias:
    return request.services.images.aliases.get(
        images_project(request), request.path("name"), public_only=not may_see_private(request)
    )


@route("GET", "/1.0/images/aliases")
async def get_aliases(request: Request) -> web.StreamResponse:
    """List the aliases."""
    aliases = request.services.images.aliases.all(request.project_for("images"))
    items = apply_filter([_to_api(alias) for alias in aliases], request.query("filter"))
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([_location(item["name"]) for item in items])


@route("POST", "/1.0/images/aliases", body=ImageAliasesPost)
async def post_aliases(request: Request) -> web.StreamResponse:
    """Create an alias."""
    project = request.project_for("images")
    body = await request.body(ImageAliasesPost)
    if not body.name or not body.target:
        raise BadRequest("name and target are required")
    images = request.services.images

    def work() -> None:
        images.aliases.require_free(project, body.name)
        images.aliases.create(
            project,
            body.name,
            images.get(project, body.target).fingerprint,
            body.description,
            request.requestor,
        )

    await request.run(work)
    return envelope.sync(location=_location(body.name))


@route("GET", "/1.0/images/aliases/{name}", public=True)
async def get_alias(request: Request) -> web.StreamResponse:
    """Show one alias; to an untrusted client only that of a public image."""
    item = _to_api(_alias(request))
    return envelope.sync(item, etag_fields=item)


async def _retarget(
    request: Request, alias: Alias, target: str, description: str
) -> web.StreamResponse:
    images, requestor = request.services.images, request.requestor

    def work() -> None:
        fingerprint = images.get(alias.project, target).fingerprint
        images.aliases.update(alias.project, alias.name, fingerprint, description, requestor)

    await request.run(work)
    return envelope.sync({})


@route("PUT", "/1.0/images/aliases/{name}", body=ImageAliasPut)
async def put_alias(request: Request) -> web.StreamResponse:
    """Replace an alias's target and description."""
    alias = _alias(request)
    request.check_etag(_to_api(alias))
    body = await request.body(ImageAliasPut)
    if not body.target:
        raise BadRequest("The target field is required")
    return await _retarget(request, alias, body.target, body.description)


@route("PATCH", "/1.0/images/aliases/{name}", body=ImageAliasPatch)
async def patch_alias(request: Request) -> web.StreamResponse:
    """Change an alias's target or description."""
    alias = _alias(request)
    request.check_etag(_to_api(alias))
    body = await request.body(ImageAliasPatch)
    return await _retarget(
        request,
        alias,
        alias.fingerprint if body.target is None else body.target,
        alias.description if body.description is None else body.description,
    )


@route("POST", "/1.0/images/aliases/{name}", body=ImageAliasPost)
async def post_alias(request: Request) -> web.StreamResponse:
    """Rename an alias."""
    project, name = request.project_for("images"), request.path("name")
    body = await request.body(ImageAliasPost)
    aliases = request.services.images.aliases
    await request.run(aliases.rename, project, name, body.name, request.requestor)
    return envelope.sync(location=_location(body.name))


@route("DELETE", "/1.0/images/aliases/{name}")
async def delete_alias(request: Request) -> web.StreamResponse:
    """Delete an alias."""
    project, name = request.project_for("images"), request.path("name")
    await request.run(request.services.images.aliases.delete, project, name, request.requestor)
    return envelope.sync({})
