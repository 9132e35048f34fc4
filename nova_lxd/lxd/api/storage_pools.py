# SPDX-License-Identifier: Apache-2.0
"""/1.0/storage-pools."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.storage import PoolRow


class StoragePoolsPost(msgspec.Struct):
    """Body of POST /1.0/storage-pools."""

    name: str = ""
    driver: str = ""
    description: str = ""
    config: dict[str, str] | None = None


class StoragePoolPut(msgspec.Struct):
    """Body of PUT and PATCH /1.0/storage-pools/NAME."""

    description: str = ""
    config: dict[str, str] | None = None


def _to_api(request: Request, row: PoolRow) -> dict[str, Any]:
    storage = request.services.storage
    return {
        "config": row.config,
        "description": row.description,
        "name": row.name,
        "driver": row.driver,
        "used_by": request.visible(storage.used_by(row.name)),
        "status": storage.status(row),
        "locations": ["none"],
    }


def _put_fields(row: PoolRow) -> list[Any]:
    return [row.name, row.driver, row.description, row.config]


def _all(request: Request) -> list[dict[str, Any]]:
    return [_to_api(request, row) for row in request.services.storage.rows()]


@route("GET", "/1.0/storage-pools")
async def get_storage_pools(request: Request) -> web.StreamResponse:
    """List the storage pools."""
    if not request.recursion and not request.query("filter"):
        rows = request.services.storage.rows()
        return envelope.sync([f"/1.0/storage-pools/{row.name}" for row in rows])
    items = apply_filter(
        await request.attempt("Listing the storage pools", _all, request), request.query("filter")
    )
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([f"/1.0/storage-pools/{item['name']}" for item in items])


@route("POST", "/1.0/storage-pools", body=StoragePoolsPost, admin=True)
async def post_storage_pools(request: Request) -> web.StreamResponse:
    """Create a storage pool."""
    body = await request.body(StoragePoolsPost)
    await request.run(
        request.services.storage.create,
        body.name,
        body.driver,
        body.description,
        body.config or {},
        request.requestor,
    )
    return envelope.sync(location=f"/1.0/storage-pools/{body.name}")


@route("GET", "/1.0/storage-pools/{pool}")
async def get_storage_pool(request: Request) -> web.StreamResponse:
    """Show one storage pool."""
    row = request.services.storage.row(request.path("pool"))
    item = await request.attempt(f"Reading storage pool {row.name!r}", _to_api, request, row)
    return envelope.sync(item, etag_fields=_put_fields(row))


@route("GET", "/1.0/storage-pools/{pool}/resources")
async def get_storage_pool_resources(request: Request) -> web.StreamResponse:
    """Show a pool's space and inodes."""
    pool = request.services.storage.get(request.path("pool"))
    found = await request.attempt("Reading the storage pool's resources", pool.resources)
    return envelope.sync(
        {
            "space": {"used": found.space_used, "total": found.space_total},
            "inodes": {"used": found.inodes_used, "total": found.inodes_total},
        }
    )


@route("PUT", "/1.0/storage-pools/{pool}", body=StoragePoolPut, admin=True)
async def put_storage_pool(request: Request) -> web.StreamResponse:
    """Replace a pool's description and config."""
    return await _change(request, merge=False)


@route("PATCH", "/1.0/storage-pools/{pool}", body=StoragePoolPut, admin=True)
async def patch_storage_pool(request: Request) -> web.StreamResponse:
    """Change some keys of a pool's config."""
    return await _change(request, merge=True)


async def _change(request: Request, *, merge: bool) -> web.StreamResponse:
    row = request.services.storage.row(request.path("pool"))
    request.check_etag(_put_fields(row))
    body = await request.body(StoragePoolPut)
    config = {**row.config, **(body.config or {})} if merge else (body.config or {})
    description = body.description or (row.description if merge else "")
    await request.run(
        request.services.storage.update, row.name, description, config, request.requestor
    )
    return envelope.sync()


@route("DELETE", "/1.0/storage-pools/{pool}", admin=True)
async def delete_storage_pool(request: Request) -> web.StreamResponse:
    """Delete a pool that nothing uses."""
    await request.run(request.services.storage.delete, request.path("pool"), request.requestor)
    return envelope.sync()
