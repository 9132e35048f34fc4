# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/backups, and POST /1.0/instances with an archive as its body."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope, instance_view
from nova_lxd.lxd.api.envelope import timestamp
from nova_lxd.lxd.api.instance_view import parse_time
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db import backups as db_backups
from nova_lxd.lxd.db.backups import BackupRecord
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import NoSpace
from nova_lxd.lxd.instances import backup, naming
from nova_lxd.lxd.operations import Operation


class BackupsPost(msgspec.Struct):
    """Body of POST /1.0/instances/NAME/backups."""

    name: str = ""
    expires_at: str | None = None
    instance_only: bool = False
    container_only: bool = False
    optimized_storage: bool = False
    compression_algorithm: str = ""


class BackupPost(msgspec.Struct):
    """Body of POST of one backup: a rename."""

    name: str = ""


def _to_api(record: BackupRecord) -> dict[str, Any]:
    return {
        **backup.describe(record),
        "created_at": timestamp(record.created_at),
        "expires_at": timestamp(record.expires_at),
    }


@route("GET", "/1.0/instances/{name}/backups")
@route("GET", "/1.0/containers/{name}/backups")
async def get_backups(request: Request) -> web.StreamResponse:
    """List the backups of an instance."""
    inst = instance_view.find(request)
    found = db_backups.of_instance(request.services.db, inst.id)
    if request.recursion:
        return envelope.sync([_to_api(record) for record in found])
    base = f"{instance_view.legacy_base(request)}/{inst.name}/backups"
    return envelope.sync([with_project(f"{base}/{r.name}", inst.project) for r in found])


@route("POST", "/1.0/instances/{name}/backups", body=BackupsPost)
@route("POST", "/1.0/containers/{name}/backups", body=BackupsPost)
async def post_backups(request: Request) -> web.StreamResponse:
    """Back up an instance."""
    svc = request.services.instances
    inst = instance_view.find(request)
    body = await request.body(BackupsPost)
    wanted = backup.Wanted(
        body.name or backup.free_name(svc, inst),
        parse_time(body.expires_at),
        body.instance_only or body.container_only,
        body.compression_algorithm,
        body.optimized_storage,
    )
    backup.check(svc, wanted)
    resources = instance_view.resources(request, [inst.name])
    op = request.services.operations.task(
        inst.project,
        "Backing up instance",
        lambda _op: backup.make(svc, inst, wanted),
        resources={**resources, "backups": [f"/1.0/backups/{wanted.name}"]},
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("GET", "/1.0/instances/{name}/backups/{backup}")
@route("GET", "/1.0/containers/{name}/backups/{backup}")
async def get_backup(request: Request) -> web.StreamResponse:
    """Show one backup."""
    inst = instance_view.find(request)
    return envelope.sync(
        _to_api(backup.get(request.services.instances, inst, request.path("backup")))
    )


@route("POST", "/1.0/instances/{name}/backups/{backup}", body=BackupPost)
@route("POST", "/1.0/containers/{name}/backups/{backup}", body=BackupPost)
async def post_backup(request: Request) -> web.StreamResponse:
    """Rename a backup."""
    svc = request.services.instances
    inst = instance_view.find(request)
    old = backup.get(svc, inst, request.path("backup")).name
    new = (await request.body(BackupPost)).name
    naming.check_snapshot_name(new)
    op = request.services.operations.task(
        inst.project,
        "Renaming instance backup",
        lambda _op: backup.rename(svc, inst, old, new),
        resources=instance_view.resources(request, [inst.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("DELETE", "/1.0/instances/{name}/backups/{backup}")
@route("DELETE", "/1.0/containers/{name}/backups/{backup}")
async def delete_backup(request: Request) -> web.StreamResponse:
    """Delete a backup."""
    svc = request.services.instances
    inst = instance_view.find(request)
    name = backup.get(svc, inst, request.path("backup")).name
    op = request.services.operations.task(
        inst.project,
        "Removing instance backup",
        lambda _op: backup.delete(svc, inst, name),
        resources=instance_view.resources(request, [inst.name]),
        requestor=request.requestor,
    )
    return envelope.operation(op)


@route("GET", "/1.0/instances/{name}/backups/{backup}/export")
@route("GET", "/1.0/containers/{name}/backups/{backup}/export")
async def export_backup(request: Request) -> web.StreamResponse:
    """Download a backup's archive."""
    svc = request.services.instances
    inst = instance_view.find(request)
    name = backup.get(svc, inst, request.path("backup")).name
    path = backup.archive(svc, inst, name)
    response = web.FileResponse(path, headers={"Content-Disposition": f"inline;filename={name}"})
    response.content_type = "application/octet-stream"
    svc.announce(
        "instance-backup-retrieved", inst, context={"name": name}, requestor=request.requestor
    )
    return response


async def import_backup(request: Request, project: str) -> web.StreamResponse:
    """Make an instance of the archive in the body (X-LXD-name, X-LXD-pool override)."""
    services = request.services
    headers = request.http.headers
    with ExitStack() as undo:
        path = await receive_archive(request)
        undo.callback(path.unlink, missing_ok=True)
        index = await request.run(backup.read_index, path)
        wanted = backup.Import(
            path, project, headers.get("X-LXD-name", ""), headers.get("X-LXD-pool", "")
        )
        name = wanted.name or index.name
        naming.check_instance_name(name)

        def work(_op: Operation) -> None:
            try:
                backup.restore(services.instances, wanted, index)
            finally:
                path.unlink(missing_ok=True)

        op = services.operations.task(
            project,
            "Restoring backup",
            work,
            resources=instance_view.resources(request, [name]),
            requestor=request.requestor,
        )
        undo.pop_all()
    return envelope.operation(op)


async def receive_archive(request: Request) -> Path:
    """The body as a file below LXD_DIR/backups; the caller removes it.

    :raises BadRequest: it ended too early.  :raises NoSpace: the disk is full.
    """
    fd, name = tempfile.mkstemp(prefix=".import-", dir=request.services.paths.backups)
    path = Path(name)

    with ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        try:
            await request.save_body(fd)
        except OSError as exc:
            raise NoSpace(f"Receiving the backup failed: {exc.strerror}") from exc
        finally:
            os.close(fd)
        undo.pop_all()
    return path
