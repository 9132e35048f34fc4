# SPDX-License-Identifier: Apache-2.0
"""POST /1.0/storage-pools/POOL/volumes/custom with a backup's archive as its body."""

from __future__ import annotations

from contextlib import ExitStack

from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.instance_backups import receive_archive
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.storage import custombackup
from nova_lxd.lxd.storage.custom import check_name


async def import_backup(request: Request, pool: str, project: str) -> web.StreamResponse:
    """Make a custom volume of the archive in the body (X-LXD-name overrides its name)."""
    services = request.services
    requestor = request.requestor
    with ExitStack() as undo:
        path = await receive_archive(request)
        undo.callback(path.unlink, missing_ok=True)
        index = await request.run(custombackup.read_index, path)
        name = request.http.headers.get("X-LXD-name", "") or index.name
        check_name(name)

        def work(_op: Operation) -> None:
            try:
                services.volume_backups.restore(path, index, pool, project, name, requestor)
            finally:
                path.unlink(missing_ok=True)

        op = services.operations.task(
            project,
            "Restoring custom volume backup",
            work,
            resources={"storage_volumes": [f"/1.0/storage-pools/{pool}/volumes/custom/{name}"]},
            requestor=requestor,
        )
        undo.pop_all()
    return envelope.operation(op)
