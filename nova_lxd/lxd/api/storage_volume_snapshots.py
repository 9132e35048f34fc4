# SPDX-License-Identifier: Apache-2.0
"""/1.0/storage-pools/POOL/volumes/custom/NAME/snapshots."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.envelope import timestamp
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.api.storage_volumes import custom
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.db.storage import VolumeRow, VolumeSnapshotRow
from nova_lxd.lxd.instances import schedule

_BASE = "/1.0/storage-pools/{pool}/volumes/{type}/{name}/snapshots"


class SnapshotsPost(msgspec.Struct):
    """Body of POST of a snapshot."""

    name: str = ""
    expires_at: datetime | None = None


class SnapshotPut(msgspec.Struct):
    """Body of PUT and PATCH of a snapshot."""

    description: str = ""
    expires_at: datetime | None = None


class SnapshotPost(msgspec.Struct):
    """Body of POST of one snapshot: a rename."""

    name: str = ""


def _url(row: VolumeRow) -> str:
    return f"/1.0/storage-pools/{row.pool}/volumes/custom/{row.name}/snapshots"


def _seconds(moment: datetime | None) -> float:
    """UNIX time; 0 for LXD's zero time and for none."""
    return 0.0 if moment is None or moment.year <= 1 else moment.timestamp()


def _to_api(row: VolumeRow, snapshot: VolumeSnapshotRow) -> dict[str, Any]:
    return {
        "name": f"{row.name}/{snapshot.name}",
        "description": snapshot.description,
        "content_type": row.content_type,
        "expires_at": timestamp(snapshot.expires_at) if snapshot.expires_at else None,
        "config": snapshot.config,
        "created_at": timestamp(snapshot.created_at),
    }


def _put_fields(snapshot: VolumeSnapshotRow) -> list[Any]:
    return [snapshot.name, snapshot.description, snapshot.expires_at]


@route("GET", _BASE)
async def get_snapshots(request: Request) -> web.StreamResponse:
    """List the snapshots of a custom volume."""
    if request.path("type") != "custom":
        return envelope.sync([])
    row = custom(request)
    found = request.services.storage.volumes.snapshots(row)
    if request.recursion:
        return envelope.sync([_to_api(row, snapshot) for snapshot in found])
    return envelope.sync([with_project(f"{_url(row)}/{s.name}", row.project) for s in found])


@route("POST", _BASE, body=SnapshotsPost)
async def post_snapshots(request: Request) -> web.StreamResponse:
    """Snapshot a custom volume."""
    row = custom(request)
    body = await request.body(SnapshotsPost)
    volumes = request.services.storage.volumes
    requestor = request.requestor
    name = body.name or volumes.next_snapshot_name(row)
    expires = _seconds(body.expires_at)
    if body.expires_at is None:
        expires = schedule.expiry(row.config, time.time())
    op = request.services.operations.task(
        row.project,
        "Snapshotting storage volume",
        lambda _op: volumes.create_snapshot(row, name, expires, requestor),
        resources={"storage_volume_snapshots": [f"{_url(row)}/{name}"]},
        requestor=requestor,
    )
    return envelope.operation(op)


@route("GET", _BASE + "/{snapshot}")
async def get_snapshot(request: Request) -> web.StreamResponse:
    """Show one snapshot."""
    row = custom(request)
    snapshot = request.services.storage.volumes.snapshot(row, request.path("snapshot"))
    # Alone it goes by its own name and has a zero time for none, unlike in LXD's list.
    shown = {"name": snapshot.name, "expires_at": timestamp(snapshot.expires_at)}
    return envelope.sync({**_to_api(row, snapshot), **shown}, etag_fields=_put_fields(snapshot))


@route("PUT", _BASE + "/{snapshot}", body=SnapshotPut)
@route("PATCH", _BASE + "/{snapshot}", body=SnapshotPut)
async def put_snapshot(request: Request) -> web.StreamResponse:
    """Change a snapshot's description and expiry."""
    row = custom(request)
    volumes = request.services.storage.volumes
    snapshot = volumes.snapshot(row, request.path("snapshot"))
    request.check_etag(_put_fields(snapshot))
    body = await request.body(SnapshotPut)
    await request.run(
        volumes.update_snapshot,
        row,
        snapshot.name,
        body.description,
        _seconds(body.expires_at),
        request.requestor,
    )
    return envelope.sync()


@route("POST", _BASE + "/{snapshot}", body=SnapshotPost)
async def post_snapshot(request: Request) -> web.StreamResponse:
    """Rename a snapshot."""
    row = custom(request)
    volumes = request.services.storage.volumes
    snapshot = volumes.snapshot(row, request.path("snapshot"))
    body = await request.body(SnapshotPost)
    requestor = request.requestor
    op = request.services.operations.task(
        row.project,
        "Renaming storage volume snapshot",
        lambda _op: volumes.rename_snapshot(row, snapshot.name, body.name, requestor),
        resources={"storage_volume_snapshots": [f"{_url(row)}/{snapshot.name}"]},
        requestor=requestor,
    )
    return envelope.operation(op)


@route("DELETE", _BASE + "/{snapshot}")
async def delete_snapshot(request: Request) -> web.StreamResponse:
    """Delete a snapshot."""
    row = custom(request)
    volumes = request.services.storage.volumes
    snapshot = volumes.snapshot(row, request.path("snapshot"))
    requestor = request.requestor
    op = request.services.operations.task(
        row.project,
        "Deleting storage volume snapshot",
        lambda _op: volumes.delete_snapshot(row, snapshot.name, requestor),
        resources={"storage_volume_snapshots": [f"{_url(row)}/{snapshot.name}"]},
        requestor=requestor,
    )
    return envelope.operation(op)
