# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/metadata: metadata.yaml and template files."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.instance_files import safe_name
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.instances import metadata
from nova_lxd.lxd.instances.instance import Instance


class TemplatePut(msgspec.Struct):
    """One template of metadata.yaml."""

    when: list[str] = msgspec.field(default_factory=list)
    create_only: bool = False
    template: str = ""
    properties: dict[str, str] | None = None


class MetadataPut(msgspec.Struct):
    """Body of PUT and PATCH of an instance's metadata."""

    architecture: str = ""
    creation_date: int = 0
    expiry_date: int = 0
    properties: dict[str, str] | None = None
    templates: dict[str, TemplatePut] | None = None


def _instance(request: Request) -> Instance:
    return request.services.instances.get(request.project().name, request.path("name"))


@route("GET", "/1.0/instances/{name}/metadata")
@route("GET", "/1.0/containers/{name}/metadata")
async def get_metadata(request: Request) -> web.StreamResponse:
    """Show an instance's image metadata."""
    found = await request.run(metadata.read, request.services.instances, _instance(request))
    return envelope.sync(found, etag_fields=found)


async def _change(request: Request, *, merge: bool) -> web.StreamResponse:
    svc, inst = request.services.instances, _instance(request)
    current = await request.run(metadata.read, svc, inst)
    request.check_etag(current)
    given: dict[str, Any] = await request.json_object()
    try:
        body = msgspec.convert({**current, **given} if merge else given, MetadataPut)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"Changing the metadata of {inst} failed: {exc}") from exc
    await request.run(metadata.write, svc, inst, msgspec.to_builtins(body))
    svc.announce("instance-metadata-updated", inst, requestor=request.requestor)
    return envelope.sync()


@route("PUT", "/1.0/instances/{name}/metadata", body=MetadataPut)
@route("PUT", "/1.0/containers/{name}/metadata", body=MetadataPut)
async def put_metadata(request: Request) -> web.StreamResponse:
    """Replace an instance's image metadata."""
    return await _change(request, merge=False)


@route("PATCH", "/1.0/instances/{name}/metadata", body=MetadataPut)
@route("PATCH", "/1.0/containers/{name}/metadata", body=MetadataPut)
async def patch_metadata(request: Request) -> web.StreamResponse:
    """Change some fields of an instance's image metadata."""
    return await _change(request, merge=True)


@route("GET", "/1.0/instances/{name}/metadata/templates")
@route("GET", "/1.0/containers/{name}/metadata/templates")
async def get_templates(request: Request) -> web.StreamResponse:
    """List the template files, or read the one named by ``path``."""
    svc, inst = request.services.instances, _instance(request)
    name = request.query("path")
    if not name:
        return envelope.sync(await request.run(metadata.template_names, svc, inst))
    data = await request.run(metadata.read_template, svc, inst, name)
    svc.announce(
        "instance-metadata-template-retrieved",
        inst,
        context={"path": name},
        requestor=request.requestor,
    )
    return web.Response(
        body=data,
        content_type="application/octet-stream",
        headers={"Content-Disposition": f"inline;filename={safe_name(name)}"},
    )


@route("POST", "/1.0/instances/{name}/metadata/templates")
@route("POST", "/1.0/containers/{name}/metadata/templates")
async def post_template(request: Request) -> web.StreamResponse:
    """Create or replace a template file with the body."""
    svc, inst = request.services.instances, _instance(request)
    name = request.query("path")
    if not name:
        raise BadRequest("missing path argument")
    data = await request.raw_body()
    await request.run(metadata.write_template, svc, inst, name, data)
    svc.announce(
        "instance-metadata-template-created",
        inst,
        context={"path": name},
        requestor=request.requestor,
    )
    return envelope.sync()


@route("DELETE", "/1.0/instances/{name}/metadata/templates")
@route("DELETE", "/1.0/containers/{name}/metadata/templates")
async def delete_template(request: Request) -> web.StreamResponse:
    """Delete a template file."""
    svc, inst = request.services.instances, _instance(request)
    name = request.query("path")
    if not name:
        raise BadRequest("missing path argument")
    await request.run(metadata.delete_template, svc, inst, name)
    svc.announce(
        "instance-metadata-template-deleted",
        inst,
        context={"path": name},
        requestor=request.requestor,
    )
    return envelope.sync()
