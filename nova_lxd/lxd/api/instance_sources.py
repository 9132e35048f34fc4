# SPDX-License-Identifier: Apache-2.0
"""POST /1.0/instances: a new instance from an image, nothing, a copy, a migration or a backup."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from nova_lxd.lxd.api import envelope, instance_view
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.errors import BadRequest, Conflict, NotFound
from nova_lxd.lxd.images import architectures
from nova_lxd.lxd.images.remotes import Source
from nova_lxd.lxd.instances import copy, create, instancetypes, naming
from nova_lxd.lxd.instances.create import ImageSource, NewInstance
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema import instancekeys
from nova_lxd.lxd.schema.configkeys import given
from nova_lxd.lxd.schema.instances import InstancesPost

_NAME_TRIES = 100


def migration() -> Any:
    """The module that moves instances between servers.

    :raises BadRequest: this build has none.
    """
    return _optional("nova_lxd.lxd.api.instance_migration", "migration between servers")


def backups() -> Any:
    """The module that imports backups.

    :raises BadRequest: this build has none.
    """
    return _optional("nova_lxd.lxd.api.instance_backups", "import of backups")


def _optional(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != module:
            raise
        raise BadRequest(f"Creating the instance failed: this server offers no {what}") from exc


@route("POST", "/1.0/containers", body=InstancesPost)
@route("POST", "/1.0/instances", body=InstancesPost)
async def post_instances(request: Request) -> web.StreamResponse:
    """Create an instance."""
    project = request.project().name
    if request.http.headers.get("Content-Type", "") == "application/octet-stream":
        answer: web.StreamResponse = await backups().import_backup(request, project)
        return answer
    body = await request.body(InstancesPost)
    instance_view.require_container(body.type)
    if body.instance_type:
        body.config = {**instancetypes.limits(body.instance_type), **(body.config or {})}
    # An unknown profile is told at once.
    request.services.instances.expander().profiles(project, body.profiles or [])
    if body.name:
        naming.check_instance_name(body.name)
    else:
        body.name = _free_name(request, project)
    if body.config:
        # Clients that copy send the whole configuration; what is the daemon's own is made anew.
        body.config = {key: value for key, value in body.config.items() if _may_set(key)}
        instancekeys.validate(body.config)
    sources: dict[str, Callable[[Request, str, InstancesPost], Awaitable[web.StreamResponse]]] = {
        "image": _from_image,
        "none": _from_none,
        "copy": _from_copy,
        "migration": _from_migration,
    }
    handler = sources.get(body.source.type)
    if handler is None:
        raise BadRequest(f"Unknown source type {body.source.type[:32]}")
    return await handler(request, project, body)


def _may_set(key: str) -> bool:
    """May a client say this volatile key of a new instance?  Those of idmaps are the daemon's."""
    return not key.startswith(("volatile.idmap.", "volatile.last_state."))


def _free_name(request: Request, project: str) -> str:
    taken = set(db_instances.names(request.services.db, project))
    for _ in range(_NAME_TRIES):
        name = naming.random_name()
        if name not in taken:
            return name
    raise Conflict("Making up a name for the instance failed: give one")


def new_instance(project: str, body: InstancesPost) -> NewInstance:
    """What a body asks for, apart from where it comes from."""
    return NewInstance(
        project=project,
        name=body.name,
        architecture=architectures.normalise(body.architecture) if body.architecture else "",
        description=body.description,
        ephemeral=body.ephemeral,
        stateful=body.stateful,
        config=given(body.config or {}),
        devices=body.devices or {},
        profiles=body.profiles,
    )


def _create_operation(
    request: Request,
    project: str,
    body: InstancesPost,
    work: Callable[[Operation], None],
    names: list[str] | None = None,
) -> web.StreamResponse:
    op = request.services.operations.task(
        project,
        "Creating instance",
        work,
        resources=instance_view.resources(request, names or [body.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


def _refuse_taken(request: Request, project: str, name: str) -> None:
    if db_instances.get(request.services.db, project, name) is not None:
        raise Conflict(f'Instance "{name}" already exists')


async def _from_image(request: Request, project: str, body: InstancesPost) -> web.StreamResponse:
    services = request.services
    source = body.source
    _refuse_taken(request, project, body.name)
    name = source.alias or source.fingerprint
    if not name and not source.properties:
        raise BadRequest(
            "Must specify one of alias, fingerprint or properties for init from image"
        )
    body.architecture = ""  # the image's counts, whatever the request says, as in LXD
    new = new_instance(project, body)
    image_project = services.images.project_for(project)
    requestor = request.requestor
    if not source.server:
        # A missing image is told at once, as LXD does.
        await request.run(_local_image, request, image_project, body)

    def work(op: Operation) -> None:
        if source.server:
            wanted = Source(
                source.server,
                source.protocol,
                name,
                source.certificate,
                source.secret,
                "container",
                source.project,
            )
            image = services.images.resolve(image_project, wanted, op, requestor)
        else:
            image = _local_image(request, image_project, body)
        told = ImageSource(image.fingerprint, image.architecture, image.properties, image.profiles)
        # Before: once the instance is there, nothing may fail any more.
        services.images.mark_used(image_project, image.fingerprint)
        create.from_image(services.instances, new, told)

    return _create_operation(request, project, body, work)


def _local_image(request: Request, project: str, body: InstancesPost) -> Any:
    images = request.services.images
    source = body.source
    if source.alias or source.fingerprint:
        found = images.find(project, source.alias or source.fingerprint)
    else:
        found = images.find_by_properties(project, source.properties or {})
    if found.type != "container":
        raise BadRequest("Requested image's type doesn't match instance type")
    return found


async def _from_none(request: Request, project: str, body: InstancesPost) -> web.StreamResponse:
    _refuse_taken(request, project, body.name)
    new = new_instance(project, body)

    def work(_op: Operation) -> None:
        create.empty(request.services.instances, new)

    return _create_operation(request, project, body, work)


async def _from_copy(request: Request, project: str, body: InstancesPost) -> web.StreamResponse:
    svc = request.services.instances
    source = body.source
    if not source.source:
        raise BadRequest("Must specify a source instance")
    origin_project = source.project or project
    if not request.identity.may_use(origin_project):
        raise NotFound("Instance not found")
    name, _, snapshot = source.source.partition("/")
    origin = svc.get(origin_project, name)
    if snapshot:
        svc.snapshot(origin, snapshot)
    if not source.refresh:
        _refuse_taken(request, project, body.name)
    wanted = copy.Copy(
        new=new_instance(project, body),
        source=origin,
        snapshot=snapshot,
        instance_only=source.instance_only or source.container_only,
        refresh=source.refresh,
        overrides_config=body.config or {},
        overrides_devices=body.devices or {},
    )

    def work(op: Operation) -> None:
        copy.copy(svc, wanted, progress=lambda text: op.update({"fs_progress": text}))

    return _create_operation(request, project, body, work, [body.name, source.source])


async def _from_migration(
    request: Request, project: str, body: InstancesPost
) -> web.StreamResponse:
    answer: web.StreamResponse = await migration().sink(request, project, body)
    return answer
