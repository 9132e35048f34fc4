# SPDX-License-Identifier: Apache-2.0
"""/1.0/storage-pools/POOL/volumes/custom/NAME/backups."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.envelope import timestamp
from nova_lxd.lxd.api.instance_view import parse_time
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.api.storage_volumes import custom
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.db.storage import VolumeRow
from nova_lxd.lxd.db.volume_backups import VolumeBackup
from nova_lxd.lxd.storage.custom import check_name

_BASE = "/1.0/storage-pools/{pool}/volumes/{type}/{name}/backups"


class VolumeBackupsPost(msgspec.Struct):
    """Body of POST of a volume's backups."""

    name: str = ""
    expires_at: str | None = None
    volume_only: bool = False
    optimized_storage: bool = False
    compression_algorithm: str = ""


class VolumeBackupPost(msgspec.Struct):
    """Body of POST of one backup: a rename."""

    name: str = ""


def _to_api(backup: VolumeBackup) -> dict[str, Any]:
    return {
        "name": backup.name,
        "created_at": timestamp(backup.created_at),
        "expires_at": timestamp(backup.expires_at),
        "volume_only": backup.volume_only,
        "optimized_storage": False,
    }


def _base(row: VolumeRow) -> str:
    return f"/1.0/storage-pools/{row.pool}/volumes/custom/{row.name}"


@route("GET", _BASE)
async def get_backups(request: Request) -> web.StreamResponse:
    """List the backups of a custom volume."""
    row = custom(request)
    found = request.services.volume_backups.all(row)
    if request.recursion:
        return envelope.sync([_to_api(backup) for backup in found])
    urls = [with_project(f"{_base(row)}/backups/{b.name}", row.project) for b in found]
    return envelope.sync(urls)


@route("POST", _BASE, body=VolumeBackupsPost)
async def post_backups(request: Request) -> web.StreamResponse:
    """Back up a custom volume."""
    row = custom(request)
    backups = request.services.volume_backups
    body = await request.body(VolumeBackupsPost)
    name = body.name or backups.free_name(row)
    expires = parse_time(body.expires_at)
    backups.check(row, name, body.compression_algorithm)
    op = request.services.operations.task(
        row.project,
        "Creating custom volume backup",
        lambda _op: backups.make(row, name, expires, body.volume_only, body.compression_algorithm),
        resources={
            "backups": [f"/1.0/backups/{name}"],  # the form that lxc takes the name from
            "storage_volumes": [_base(row)],
        },
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("GET", _BASE + "/{backup}")
async def get_backup(request: Request) -> web.StreamResponse:
    """Show one backup of a custom volume."""
    row = custom(request)
    return envelope.sync(_to_api(request.services.volume_backups.get(row, request.path("backup"))))


@route("POST", _BASE + "/{backup}", body=VolumeBackupPost)
async def post_backup(request: Request) -> web.StreamResponse:
    """Rename a backup of a custom volume."""
    row = custom(request)
    backups = request.services.volume_backups
    old = backups.get(row, request.path("backup")).name
    new = (await request.body(VolumeBackupPost)).name
    check_name(new)
    op = request.services.operations.task(
        row.project,
        "Renaming custom volume backup",
        lambda _op: backups.rename(row, old, new),
        resources={"storage_volumes": [_base(row)]},
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("DELETE", _BASE + "/{backup}")
async def delete_backup(request: Request) -> web.StreamResponse:
    """Delete a backup of a custom volume."""
    row = custom(request)
    backups = request.services.volume_backups
    name = backups.get(row, request.path("backup")).name
    op = request.services.operations.task(
        row.project,
        "Removing custom volume backup",
        lambda _op: backups.delete(row, name),
        resources={"storage_volumes": [_base(row)]},
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("GET", _BASE + "/{backup}/export")
async def export_backup(request: Request) -> web.StreamResponse:
    """Download the archive of a custom volume's backup."""
    row = custom(request)
    backups = request.services.volume_backups
    name = backups.get(row, request.path("backup")).name
    response = web.FileResponse(
        backups.archive(row, name), headers={"Content-Disposition": f"inline;filename={name}"}
    )
    response.content_type = "application/octet-stream"
    return response
