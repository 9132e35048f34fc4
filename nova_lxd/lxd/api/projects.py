# SPDX-License-Identifier: Apache-2.0
"""/1.0/projects."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.projects import Project
from nova_lxd.lxd.errors import NotFound
from nova_lxd.lxd.instances.totals import of_project as totals_of
from nova_lxd.lxd.schema.sizes import parse_size
from nova_lxd.lxd.services import Services

_RENAME_PATIENCE = 5.0


class ProjectsPost(msgspec.Struct):
    """Body of POST /1.0/projects."""

    name: str = ""
    description: str = ""
    config: dict[str, str] | None = None


class ProjectPut(msgspec.Struct):
    """Body of PUT /1.0/projects/NAME."""

    description: str = ""
    config: dict[str, str] | None = None


class ProjectPost(msgspec.Struct):
    """Body of POST /1.0/projects/NAME: a rename."""

    name: str = ""


def _to_api(project: Project, used_by: list[str]) -> dict[str, Any]:
    return {
        "description": project.description,
        "config": project.config,
        "name": project.name,
        "used_by": used_by,
    }


def _put_fields(project: Project) -> list[Any]:
    return [project.description, project.config]


def _visible(request: Request) -> Project:
    name = request.path("name")
    if not request.identity.may_use(name):
        raise NotFound(f"Project {name!r} not found")
    return request.services.projects.get(name)


@route("GET", "/1.0/projects")
async def get_projects(request: Request) -> web.StreamResponse:
    """List the projects that the client may see."""
    projects = [p for p in request.services.projects.all() if request.identity.may_use(p.name)]
    used_by = request.services.projects.used_by()
    items = [_to_api(p, used_by.get(p.name, [])) for p in projects]
    items = apply_filter(items, request.query("filter"))
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([f"/1.0/projects/{item['name']}" for item in items])


@route("POST", "/1.0/projects", body=ProjectsPost, admin=True)
async def post_projects(request: Request) -> web.StreamResponse:
    """Create a project."""
    body = await request.body(ProjectsPost)
    await request.run(
        request.services.projects.create,
        body.name,
        body.description,
        body.config or {},
        request.requestor,
    )
    return envelope.sync(location=f"/1.0/projects/{body.name}")


@route("GET", "/1.0/projects/{name}")
async def get_project(request: Request) -> web.StreamResponse:
    """Show one project."""
    project = _visible(request)
    used_by = request.services.projects.used_by().get(project.name, [])
    return envelope.sync(_to_api(project, used_by), etag_fields=_put_fields(project))


@route("GET", "/1.0/projects/{name}/state")
async def get_project_state(request: Request) -> web.StreamResponse:
    """Show what the project's instances and volumes may use together; no limits, hence -1."""
    project = _visible(request)
    usage = await request.attempt(
        "Reading the project's usage", _usage, request.services, project.name
    )
    return envelope.sync(
        {"resources": {name: {"Limit": -1, "Usage": used} for name, used in usage.items()}}
    )


def _usage(services: Services, project: str) -> dict[str, int]:
    totals = totals_of(services.instances, project)
    volumes = [row for row in services.storage.volumes.all() if row.project == project]
    return {
        "containers": totals.instances,
        "cpu": totals.cpu,
        "disk": totals.disk + sum(parse_size(row.config.get("size", "")) for row in volumes),
        "instances": totals.instances,
        "memory": totals.memory,
        "networks": len(services.networks.all(project)),
        "processes": totals.processes,
        "virtual-machines": 0,
    }


@route("PUT", "/1.0/projects/{name}", body=ProjectPut, admin=True)
async def put_project(request: Request) -> web.StreamResponse:
    """Replace a project's description and config."""
    project = _visible(request)
    request.check_etag(_put_fields(project))
    body = await request.body(ProjectPut)
    await request.run(
        request.services.projects.update,
        project.name,
        body.description,
        body.config or {},
        request.requestor,
    )
    return envelope.sync()


@route("PATCH", "/1.0/projects/{name}", body=ProjectPut, admin=True)
async def patch_project(request: Request) -> web.StreamResponse:
    """Change some of a project's fields; config keys are merged."""
    project = _visible(request)
    request.check_etag(_put_fields(project))
    body = await request.body(ProjectPut)
    await request.run(
        request.services.projects.update,
        project.name,
        body.description or project.description,
        {**project.config, **(body.config or {})},
        request.requestor,
    )
    return envelope.sync()


@route("POST", "/1.0/projects/{name}", body=ProjectPost, admin=True)
async def post_project(request: Request) -> web.StreamResponse:
    """Rename a project."""
    project = _visible(request)
    body = await request.body(ProjectPost)
    services = request.services
    await request.run(services.projects.check_rename, project.name, body.name)
    requestor = request.requestor
    op = services.operations.task(
        "",
        "Renaming project",
        lambda _op: services.projects.rename(project.name, body.name, requestor),
        requestor=requestor,
    )
    # pylxd looks for the new name without waiting; LXD is done by then, so let it be done here.
    await services.operations.wait(op, _RENAME_PATIENCE)
    return envelope.operation(op)


@route("DELETE", "/1.0/projects/{name}", admin=True)
async def delete_project(request: Request) -> web.StreamResponse:
    """Delete an empty project."""
    project = _visible(request)
    await request.run(request.services.projects.delete, project.name, request.requestor)
    return envelope.sync()
