# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances: list, create, show, change, rename and delete."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope, instance_sources, instance_view
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.instances import config as instance_config
from nova_lxd.lxd.instances import delete, rename, snapshots, state
from nova_lxd.lxd.instances.config import Wanted
from nova_lxd.lxd.instances.expand import Expanded, UnknownProfile
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema.instances import InstancePatch, InstancePost, InstancePut

_Entry = tuple[Instance, InstanceRecord, Expanded]
# More than this many instances are read and expanded on a worker thread.
_INLINE = 50
_PATIENCE = 30.0


def _entries(request: Request, project: str | None) -> list[_Entry]:
    return [
        entry
        for entry in request.services.instances.listing()
        if (project is None or entry[1].project == project)
        and request.identity.may_use(entry[1].project)
    ]


def _full(request: Request, entries: Iterable[_Entry]) -> list[dict[str, Any]]:
    """recursion=2: with state, snapshots and backups."""
    svc = request.services.instances
    all_snapshots = db_snapshots.of_all(request.services.db)
    expander = svc.expander()
    result = []
    with state.Usage(svc) as usage:
        for inst, record, expanded in entries:
            shown = instance_view.instance(inst, record, expanded)
            shown["backups"] = None
            shown["state"] = state.of_instance(svc, inst, record, expanded, usage)
            shown["snapshots"] = [
                instance_view.snapshot(
                    s, expander.expand(record.project, s.profiles, s.config, s.devices)
                )
                for s in all_snapshots.get(record.id, [])
            ] or None
            result.append(shown)
    return result


@route("GET", "/1.0/virtual-machines")
async def get_virtual_machines(request: Request) -> web.StreamResponse:
    """List the virtual machines: there are none here."""
    request.project()
    return envelope.sync([])


@route("GET", "/1.0/containers")
@route("GET", "/1.0/instances")
async def get_instances(request: Request) -> web.StreamResponse:
    """List the instances of a project, or of all."""
    project = None if request.all_projects else request.project().name
    if request.all_projects and request.query("project"):
        raise BadRequest("Cannot specify a project when requesting all projects")
    kind = request.query("instance-type")
    if kind not in ("", "container", "virtual-machine"):
        raise BadRequest(f"Invalid instance type {kind[:32]!r}")
    base = instance_view.legacy_base(request)
    recursion, expression = request.recursion, request.query("filter")

    def read() -> list[Any]:
        entries = [] if kind == "virtual-machine" else _entries(request, project)
        if expression:
            shown = [instance_view.instance(*entry) for entry in entries]
            kept = {(i["project"], i["name"]) for i in apply_filter(shown, expression)}
            entries = [e for e in entries if (e[1].project, e[1].name) in kept]
        if recursion >= 2:
            return _full(request, entries)
        if recursion == 1:
            return [instance_view.instance(*entry) for entry in entries]
        return [with_project(f"{base}/{r.name}", r.project) for _, r, _ in entries]

    if recursion < 2 and len(request.services.instances.all()) < _INLINE:
        return envelope.sync(read())
    return envelope.sync(await request.run(read))


@route("GET", "/1.0/containers/{name}")
@route("GET", "/1.0/instances/{name}")
async def get_instance(request: Request) -> web.StreamResponse:
    """Show one instance; recursion=1 with state, snapshots and backups."""
    svc = request.services.instances
    inst = instance_view.find(request)
    record = svc.record(inst)
    expanded = svc.expanded(record)
    fields = instance_view.etag_fields(record)
    if request.recursion:
        shown = (await request.run(_full, request, [(inst, record, expanded)]))[0]
        return envelope.sync(shown, etag_fields=fields)
    return envelope.sync(instance_view.instance(inst, record, expanded), etag_fields=fields)


def _update_operation(request: Request, inst: Instance, wanted: Wanted) -> web.StreamResponse:
    svc = request.services.instances
    requestor = request.requestor

    def work(_op: Operation) -> None:
        with svc.hold(inst, "update", _PATIENCE):
            _unchanged(request, inst)
            instance_config.update(svc, inst, wanted)
        svc.announce("instance-updated", inst, requestor=requestor)

    op = request.services.operations.task(
        inst.project,
        "Updating instance",
        work,
        resources=instance_view.resources(request, [inst.name]),
        requestor=requestor,
    )
    return envelope.operation(op)


def _unchanged(request: Request, inst: Instance) -> InstanceRecord:
    """What is recorded of the instance, if that is what the client has seen (If-Match).

    It is asked before anything is begun, and again by who holds the instance.

    :raises PreconditionFailed: it is not.
    """
    record = request.services.instances.record(inst)
    request.check_etag(instance_view.etag_fields(record))
    return record


@route("PUT", "/1.0/containers/{name}", body=InstancePut)
@route("PUT", "/1.0/instances/{name}", body=InstancePut)
async def put_instance(request: Request) -> web.StreamResponse:
    """Replace an instance's configuration, or restore a snapshot of it."""
    inst = instance_view.find(request)
    record = _unchanged(request, inst)
    body = await request.body(InstancePut)
    if body.restore:
        return _restore_operation(request, inst, body)
    wanted = Wanted(
        body.architecture or record.architecture,
        body.config or {},
        body.devices or {},
        body.description,
        body.ephemeral,
        body.profiles or [],
    )
    return _update_operation(request, inst, wanted)


def _restore_operation(request: Request, inst: Instance, body: InstancePut) -> web.StreamResponse:
    svc = request.services.instances
    name = body.restore.rpartition("/")[2]
    if body.stateful:
        raise BadRequest("Stateful snapshot restore requested but snapshot is stateless")
    svc.snapshot(inst, name)

    def work(_op: Operation) -> None:
        with svc.hold(inst, "restore"):
            snapshots.restore(svc, inst, name)

    op = request.services.operations.task(
        inst.project,
        "Restoring snapshot",
        work,
        resources=instance_view.resources(request, [inst.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("PATCH", "/1.0/containers/{name}", body=InstancePatch)
@route("PATCH", "/1.0/instances/{name}", body=InstancePatch)
async def patch_instance(request: Request) -> web.StreamResponse:
    """Change parts of an instance's configuration."""
    svc = request.services.instances
    inst = instance_view.find(request)
    _unchanged(request, inst)
    body = await request.body(InstancePatch)
    if body.restore:
        raise BadRequest("Can't call PATCH in restore mode")
    # LXD answers a PATCH when it is done.
    requestor = request.requestor

    def work() -> None:
        with svc.hold(inst, "update", _PATIENCE):
            wanted = _patched(_unchanged(request, inst), body)
            try:
                instance_config.update(svc, inst, wanted)
            except UnknownProfile as exc:
                raise NotFound("Profile not found") from exc
        svc.announce("instance-updated", inst, requestor=requestor)

    await request.run(work)
    return envelope.sync()


def _patched(record: InstanceRecord, body: InstancePatch) -> Wanted:
    """What is recorded of an instance with what a PATCH gives."""
    now = instance_config.current(record)
    unset = msgspec.UNSET
    return Wanted(
        now.architecture if body.architecture in (unset, "") else str(body.architecture),
        {**now.config, **(body.config or {})},
        {**now.devices, **(body.devices or {})},
        now.description if body.description in (unset, "") else str(body.description),
        now.ephemeral if body.ephemeral is unset else bool(body.ephemeral),
        now.profiles if body.profiles is None else body.profiles,
    )


@route("POST", "/1.0/containers/{name}", body=InstancePost)
@route("POST", "/1.0/instances/{name}", body=InstancePost)
async def post_instance(request: Request) -> web.StreamResponse:
    """Rename an instance, move it to another pool or project, or send it away."""
    svc = request.services.instances
    inst = instance_view.find(request)
    body = await request.body(InstancePost)
    if body.migration and not (body.pool or body.project):
        return await _send_away(request, inst, body)
    if body.project:
        request.services.projects.get(body.project)
        if not request.identity.may_use(body.project):
            raise NotFound("Project not found")
    new = body.name or inst.name
    if body.pool or body.project:
        move = rename.Move(new, body.project or inst.project, body.pool)
        only = body.instance_only or body.container_only
        description = "Migrating instance"

        def work(_op: Operation) -> None:
            with svc.hold(inst, "move"):
                rename.move(svc, inst, move, instance_only=only)
    else:
        rename.require_free(svc, inst.project, new)
        description = "Renaming instance"

        def work(_op: Operation) -> None:
            with svc.hold(inst, "rename"):
                rename.rename(svc, inst, new)

    op = request.services.operations.task(
        inst.project,
        description,
        work,
        resources=instance_view.resources(request, [inst.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


async def _send_away(request: Request, inst: Instance, body: InstancePost) -> web.StreamResponse:
    migration = instance_sources.migration()
    answer: web.StreamResponse = await migration.source(request, inst, body)
    return answer


@route("DELETE", "/1.0/containers/{name}")
@route("DELETE", "/1.0/instances/{name}")
async def delete_instance(request: Request) -> web.StreamResponse:
    """Delete a stopped instance with its snapshots."""
    svc = request.services.instances
    inst = instance_view.find(request)
    delete.check(svc, inst)
    requestor = request.requestor

    def work(_op: Operation) -> None:
        with svc.hold(inst, "delete", patience=5.0):
            delete.delete(svc, inst)

    op = request.services.operations.task(
        inst.project,
        "Deleting instance",
        work,
        resources=instance_view.resources(request, [inst.name]),
        requestor=requestor,
    )
    return envelope.operation(op)
