# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/snapshots."""

from __future__ import annotations

from aiohttp import web

from nova_lxd.lxd.api import envelope, instance_sources, instance_view
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.instances import naming, snapshots
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema.instances import SnapshotPost, SnapshotPut, SnapshotsPost


def _expanded(request: Request, inst: Instance, record: SnapshotRecord) -> Expanded:
    return request.services.instances.expander().expand(
        inst.project, record.profiles, record.config, record.devices
    )


@route("GET", "/1.0/containers/{name}/snapshots")
@route("GET", "/1.0/instances/{name}/snapshots")
async def get_snapshots(request: Request) -> web.StreamResponse:
    """List an instance's snapshots."""
    inst = instance_view.find(request)
    records = [r for r in db_snapshots.of_instance(request.services.db, inst.id) if not r.intent]
    base = f"{instance_view.legacy_base(request)}/{inst.name}/snapshots"
    if not request.recursion:
        return envelope.sync([with_project(f"{base}/{r.name}", inst.project) for r in records])
    shown = [instance_view.snapshot(r, _expanded(request, inst, r)) for r in records]
    return envelope.sync(apply_filter(shown, request.query("filter")))


@route("POST", "/1.0/containers/{name}/snapshots", body=SnapshotsPost)
@route("POST", "/1.0/instances/{name}/snapshots", body=SnapshotsPost)
async def post_snapshots(request: Request) -> web.StreamResponse:
    """Take a snapshot."""
    svc = request.services.instances
    inst = instance_view.find(request)
    body = await request.body(SnapshotsPost)
    if body.stateful:
        snapshots.refuse_stateful()
    record = svc.record(inst)
    name = body.name or snapshots.next_name(
        svc, record, svc.expanded(record).config.get("snapshots.pattern", "")
    )
    snapshots.require_free(svc, inst, name)
    expires = None if body.expires_at is None else instance_view.parse_time(body.expires_at)

    def work(_op: Operation) -> None:
        with svc.hold(inst, "snapshot", patience=30.0):
            snapshots.create(svc, inst, name, expires)

    op = request.services.operations.task(
        inst.project,
        "Snapshotting instance",
        work,
        resources=instance_view.resources(request, [inst.name], [name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


def _found(request: Request) -> tuple[Instance, SnapshotRecord]:
    inst = instance_view.find(request)
    return inst, request.services.instances.snapshot(inst, request.path("snapshot"))


@route("GET", "/1.0/containers/{name}/snapshots/{snapshot}")
@route("GET", "/1.0/instances/{name}/snapshots/{snapshot}")
async def get_snapshot(request: Request) -> web.StreamResponse:
    """Show one snapshot."""
    inst, record = _found(request)
    shown = instance_view.snapshot(record, _expanded(request, inst, record))
    return envelope.sync(shown, etag_fields=instance_view.snapshot_etag(record))


@route("PUT", "/1.0/containers/{name}/snapshots/{snapshot}", body=SnapshotPut)
@route("PUT", "/1.0/instances/{name}/snapshots/{snapshot}", body=SnapshotPut)
@route("PATCH", "/1.0/containers/{name}/snapshots/{snapshot}", body=SnapshotPut)
@route("PATCH", "/1.0/instances/{name}/snapshots/{snapshot}", body=SnapshotPut)
async def put_snapshot(request: Request) -> web.StreamResponse:
    """Change when a snapshot expires."""
    svc = request.services.instances
    inst, record = _found(request)
    request.check_etag(instance_view.snapshot_etag(record))
    body = await request.body(SnapshotPut)
    patch = request.http.method == "PATCH" and body.expires_at is None
    expires = record.expires_at if patch else instance_view.parse_time(body.expires_at)

    def work(_op: Operation) -> None:
        with svc.hold(inst, "snapshot-update", patience=30.0):
            snapshots.set_expiry(svc, inst, record.name, expires)

    op = request.services.operations.task(
        inst.project,
        "Updating snapshot",
        work,
        resources=instance_view.resources(request, [inst.name], [record.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("POST", "/1.0/containers/{name}/snapshots/{snapshot}", body=SnapshotPost)
@route("POST", "/1.0/instances/{name}/snapshots/{snapshot}", body=SnapshotPost)
async def post_snapshot(request: Request) -> web.StreamResponse:
    """Rename a snapshot, or send it to another server."""
    svc = request.services.instances
    inst, record = _found(request)
    body = await request.body(SnapshotPost)
    if body.migration:
        answer: web.StreamResponse = await instance_sources.migration().snapshot_source(
            request, inst, record, body
        )
        return answer
    if not body.name:
        raise BadRequest("A new name for the instance must be provided")
    naming.check_snapshot_name(body.name)
    snapshots.require_free(svc, inst, body.name)

    def work(_op: Operation) -> None:
        with svc.hold(inst, "snapshot-rename", patience=30.0):
            snapshots.rename(svc, inst, record.name, body.name)

    op = request.services.operations.task(
        inst.project,
        "Renaming snapshot",
        work,
        resources=instance_view.resources(request, [inst.name], [record.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("DELETE", "/1.0/containers/{name}/snapshots/{snapshot}")
@route("DELETE", "/1.0/instances/{name}/snapshots/{snapshot}")
async def delete_snapshot(request: Request) -> web.StreamResponse:
    """Delete a snapshot."""
    svc = request.services.instances
    inst, record = _found(request)

    def work(_op: Operation) -> None:
        with svc.hold(inst, "snapshot-delete", patience=30.0):
            snapshots.delete(svc, inst, record.name)

    op = request.services.operations.task(
        inst.project,
        "Deleting snapshot",
        work,
        resources=instance_view.resources(request, [inst.name], [record.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)
