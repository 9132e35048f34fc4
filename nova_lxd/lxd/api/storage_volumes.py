# SPDX-License-Identifier: Apache-2.0
"""/1.0/storage-pools/POOL/volumes: custom volumes; those of instances and images to look at."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.envelope import timestamp
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.api.volume_import import import_backup
from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.db.storage import VolumeRow, VolumeSnapshotRow
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.paths import storage_name
from nova_lxd.lxd.storage.volume import Volume, VolumeType

_TYPES = ("container", "custom", "image", "virtual-machine")


class VolumeSource(msgspec.Struct):
    """What a new volume is copied from."""

    name: str = ""
    type: str = ""
    pool: str = ""
    project: str = ""
    volume_only: bool = False
    refresh: bool = False


class VolumesPost(msgspec.Struct):
    """Body of POST /1.0/storage-pools/POOL/volumes[/custom]."""

    name: str = ""
    type: str = "custom"
    description: str = ""
    content_type: str = ""
    config: dict[str, str] | None = None
    source: VolumeSource = msgspec.field(default_factory=VolumeSource)


class VolumePut(msgspec.Struct):
    """Body of PUT and PATCH of a volume; ``restore`` names a snapshot to go back to."""

    description: str = ""
    config: dict[str, str] | None = None
    restore: str = ""


class VolumePost(msgspec.Struct):
    """Body of POST of a volume: rename or move."""

    name: str = ""
    pool: str = ""
    project: str = ""
    migration: bool = False


def custom(request: Request) -> VolumeRow:
    """The custom volume that the path names.

    :raises NotFound: there is none.  :raises BadRequest: the path names another type.
    """
    kind = request.path("type")
    if kind != "custom":
        if kind not in _TYPES:
            raise BadRequest(f"Invalid storage volume type {kind[:64]!r}")
        raise BadRequest(f"Volumes of type {kind} are changed through their instance or image")
    project = request.project_for("storage.volumes")
    return request.services.storage.volumes.get(
        request.path("pool"), project, request.path("name")
    )


def _custom_to_api(row: VolumeRow, used_by: list[str]) -> dict[str, Any]:
    return {
        "config": row.config,
        "description": row.description,
        "name": row.name,
        "type": "custom",
        "used_by": used_by,
        "location": "none",
        "content_type": row.content_type,
        "project": row.project,
        "created_at": timestamp(row.created_at),
    }


def _other_to_api(kind: str, name: str, project: str, url: str, created: float) -> dict[str, Any]:
    return {
        "config": {},
        "description": "",
        "name": name,
        "type": kind,
        "used_by": [with_project(url, project)],
        "location": "none",
        "content_type": "filesystem",
        "project": project,
        "created_at": timestamp(created),
    }


def _snapshot_to_api(row: VolumeRow, snapshot: VolumeSnapshotRow) -> dict[str, Any]:
    return {
        **_custom_to_api(row, []),
        "config": snapshot.config,
        "description": snapshot.description,
        "name": f"{row.name}/{snapshot.name}",
        "created_at": timestamp(snapshot.created_at),
    }


def put_fields(item: dict[str, Any]) -> list[Any]:
    """What a volume's ETag covers."""
    return [item["name"], item["type"], item["config"], item["description"]]


def _all(request: Request, pool: str, project: str | None) -> list[dict[str, Any]]:
    """The volumes of a pool that a project sees; of every project for None."""
    services = request.services
    items = [
        _other_to_api("container", name, owner, f"/1.0/instances/{name}", created)
        for owner, name, created in db_storage.instances_on(services.db, pool)
        if project in (None, owner) and request.identity.may_use(owner)
    ]
    items += [
        _other_to_api(
            "container",
            f"{name}/{snapshot}",
            owner,
            f"/1.0/instances/{name}/snapshots/{snapshot}",
            created,
        )
        for owner, name, snapshot, created in db_storage.instance_snapshots_on(services.db, pool)
        if project in (None, owner) and request.identity.may_use(owner)
    ]
    items += [
        _other_to_api("image", fingerprint, owner, f"/1.0/images/{fingerprint}", 0)
        for fingerprint, owner in services.storage.image_volumes(pool).items()
        if request.identity.may_use(owner)
    ]
    used_by = services.storage.volumes.used_by()
    volume_project = None if project is None else request.project_for("storage.volumes")
    for row in services.storage.volumes.all(pool):
        if volume_project is None and not request.identity.may_use(row.project):
            continue
        if volume_project in (None, row.project):
            urls = used_by.get((row.pool, row.project, row.name), [])
            items.append(_custom_to_api(row, request.visible(urls)))
            snapshots = services.storage.volumes.snapshots(row)
            items += [_snapshot_to_api(row, snapshot) for snapshot in snapshots]
    return items


def _url(pool: str, item: dict[str, Any]) -> str:
    name, _, snapshot = item["name"].partition("/")
    url = f"/1.0/storage-pools/{pool}/volumes/{item['type']}/{name}"
    return with_project(f"{url}/snapshots/{snapshot}" if snapshot else url, item["project"])


async def _listing(request: Request, kind: str | None) -> web.StreamResponse:
    pool = request.services.storage.row(request.path("pool")).name
    project = None if request.all_projects else request.project().name
    items = await request.attempt("Listing the volumes", _all, request, pool, project)
    items = [item for item in items if kind in (None, item["type"])]
    items = apply_filter(items, request.query("filter"))
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([_url(pool, item) for item in items])


@route("GET", "/1.0/storage-pools/{pool}/volumes")
async def get_volumes(request: Request) -> web.StreamResponse:
    """List the volumes of a pool."""
    return await _listing(request, None)


@route("GET", "/1.0/storage-pools/{pool}/volumes/{type}")
async def get_volumes_of_type(request: Request) -> web.StreamResponse:
    """List the volumes of one type of a pool."""
    kind = request.path("type")
    if kind not in _TYPES:
        raise BadRequest(f"Invalid storage volume type {kind[:64]!r}")
    return await _listing(request, kind)


@route("POST", "/1.0/storage-pools/{pool}/volumes", body=VolumesPost)
@route("POST", "/1.0/storage-pools/{pool}/volumes/{type}", body=VolumesPost)
async def post_volumes(request: Request) -> web.StreamResponse:
    """Create a custom volume, empty or as a copy."""
    pool = request.services.storage.row(request.path("pool")).name
    project = request.project_for("storage.volumes")
    if request.http.headers.get("Content-Type", "") == "application/octet-stream":
        return await import_backup(request, pool, project)
    body = await request.body(VolumesPost)
    kind = request.http.match_info.get("type") or body.type or "custom"
    if kind != "custom":
        raise BadRequest(f"Currently not allowed to create storage volumes of type {kind[:64]!r}")
    if not body.name:
        raise BadRequest("No name provided")
    volumes = request.services.storage.volumes
    if not body.source.name:
        if body.source.type not in ("", "none"):
            raise BadRequest(f"Unknown source type {body.source.type[:64]!r}")
        await request.run(
            volumes.create,
            pool,
            project,
            body.name,
            body.description,
            body.content_type,
            body.config or {},
            request.requestor,
        )
        return envelope.sync(location=f"/1.0/storage-pools/{pool}/volumes/custom/{body.name}")
    return _copy(request, pool, project, body)


def _copy(request: Request, pool: str, project: str, body: VolumesPost) -> web.StreamResponse:
    source = body.source
    volumes = request.services.storage.volumes
    name, _, snapshot = source.name.partition("/")
    origin = request.project_for("storage.volumes", source.project)
    row = volumes.get(source.pool or pool, origin, name)
    requestor = request.requestor
    op = request.services.operations.task(
        project,
        "Copying storage volume",
        lambda _op: _discard(
            volumes.copy(
                row,
                snapshot,
                pool,
                project,
                body.name,
                body.config or {},
                not source.volume_only,
                requestor,
                body.description,
            )
        ),
        resources={"storage_volumes": [f"/1.0/storage-pools/{pool}/volumes/custom/{body.name}"]},
        requestor=requestor,
    )
    return envelope.operation(op)


def _discard(_result: object) -> None:
    return None


def _show(request: Request) -> dict[str, Any]:
    kind, name, pool = request.path("type"), request.path("name"), request.path("pool")
    if kind not in _TYPES:
        raise BadRequest(f"Invalid storage volume type name {kind[:64]!r}")
    project = request.project().name
    for item in _all(request, request.services.storage.row(pool).name, project):
        if item["type"] == kind and item["name"] == name:
            return item
    raise NotFound("Storage volume not found")


@route("GET", "/1.0/storage-pools/{pool}/volumes/{type}/{name}")
async def get_volume(request: Request) -> web.StreamResponse:
    """Show one volume."""
    item = await request.attempt("Reading the volume", _show, request)
    return envelope.sync(item, etag_fields=put_fields(item))


@route("GET", "/1.0/storage-pools/{pool}/volumes/{type}/{name}/state")
async def get_volume_state(request: Request) -> web.StreamResponse:
    """Show how much of a volume is used."""
    item = await request.attempt("Reading the volume", _show, request)
    if item["type"] == "custom":
        row = custom(request)
        used, total = await request.attempt(
            "Reading the volume's usage", request.services.storage.volumes.usage, row
        )
    else:
        name = storage_name(item["project"], item["name"])
        kind = VolumeType(item["type"])
        stored = item["name"] if kind is VolumeType.IMAGE else name
        driver = request.services.storage.driver(request.path("pool"))
        used, total = (
            await request.attempt(
                "Reading the volume's usage", driver.usage, Volume(kind, stored)
            ),
            0,
        )
    usage = None if used is None else {"used": used, "total": total}
    return envelope.sync({"usage": usage})


async def _change(request: Request, *, merge: bool) -> web.StreamResponse:
    row = custom(request)
    volumes = request.services.storage.volumes
    request.check_etag(put_fields(_custom_to_api(row, [])))
    body = await request.body(VolumePut)
    if body.restore:
        await request.run(volumes.restore_snapshot, row, body.restore, request.requestor)
        return envelope.sync()
    config = {**row.config, **(body.config or {})} if merge else (body.config or {})
    description = body.description or (row.description if merge else "")
    await request.run(volumes.update, row, description, config, request.requestor)
    return envelope.sync()


@route("PUT", "/1.0/storage-pools/{pool}/volumes/{type}/{name}", body=VolumePut)
async def put_volume(request: Request) -> web.StreamResponse:
    """Replace a custom volume's description and config, or restore a snapshot."""
    return await _change(request, merge=False)


@route("PATCH", "/1.0/storage-pools/{pool}/volumes/{type}/{name}", body=VolumePut)
async def patch_volume(request: Request) -> web.StreamResponse:
    """Change some keys of a custom volume."""
    return await _change(request, merge=True)


@route("POST", "/1.0/storage-pools/{pool}/volumes/{type}/{name}", body=VolumePost)
async def post_volume(request: Request) -> web.StreamResponse:
    """Rename a custom volume, or move it to another pool or project."""
    row = custom(request)
    body = await request.body(VolumePost)
    if not body.name:
        raise BadRequest("No name provided")
    if body.migration:
        raise BadRequest("Moving custom volumes between servers is not supported; copy its files")
    services = request.services
    pool = body.pool or row.pool
    project = request.project_for("storage.volumes", body.project)
    services.storage.row(pool)
    requestor = request.requestor
    if (pool, project) == (row.pool, row.project):
        await request.run(services.storage.volumes.rename, row, body.name, requestor)
        return envelope.sync(location=f"/1.0/storage-pools/{pool}/volumes/custom/{body.name}")
    op = services.operations.task(
        row.project,
        "Moving storage volume",
        lambda _op: services.storage.volumes.move(row, pool, project, body.name, requestor),
        requestor=requestor,
    )
    return envelope.operation(op)


@route("DELETE", "/1.0/storage-pools/{pool}/volumes/{type}/{name}")
async def delete_volume(request: Request) -> web.StreamResponse:
    """Delete a custom volume, or the cached volume of an image."""
    if request.path("type") == "image":
        item = await request.attempt("Reading the volume", _show, request)
        pool = request.services.storage.get(request.path("pool"))
        await request.attempt("Deleting the image's volume", pool.drop_image, item["name"])
        return envelope.sync()
    row = custom(request)
    await request.run(request.services.storage.volumes.delete, row, request.requestor)
    return envelope.sync()
