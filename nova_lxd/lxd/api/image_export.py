# SPDX-License-Identifier: Apache-2.0
"""/1.0/images/FINGERPRINT/export: an image's files as a download."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.image_sources import DOWNLOADING
from nova_lxd.lxd.api.images import own_image, visible_image
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.form import SplitForm, suffix
from nova_lxd.lxd.images.push import Target
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema.images import ImageExportPost

_CHUNK = 1024 * 1024


@route("GET", "/1.0/images/{fingerprint}/export", public=True)
async def get_export(request: Request) -> web.StreamResponse:
    """Download an image: its file, or metadata and root as a multipart form."""
    image = visible_image(request)
    store = request.services.images.store
    path = store.path(image.fingerprint)
    rootfs = store.rootfs(image.fingerprint)
    ending = await request.attempt(f"Reading image {image.fingerprint}", suffix, path)
    request.services.images.retrieved(image, "", request.requestor)
    if rootfs is not None:
        return await _send_split(request, image, path, rootfs)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"inline;filename={image.fingerprint}{ending}",
    }
    return web.FileResponse(path, chunk_size=_CHUNK, headers=headers)


async def _send_split(
    request: Request, image: Image, path: Path, rootfs: Path
) -> web.StreamResponse:
    form = await request.attempt(
        f"Reading image {image.fingerprint}", SplitForm, image, path, rootfs
    )
    response = web.StreamResponse(headers={"Content-Type": form.content_type})
    response.content_length = form.length
    await response.prepare(request.http)
    if request.http.method == "HEAD":
        return response
    chunks = form.chunks()
    while data := await request.run(next, chunks, b""):
        await response.write(data)
    await response.write_eof()
    return response


@route("HEAD", "/1.0/images/{fingerprint}/export", public=True)
async def head_export(request: Request) -> web.StreamResponse:
    """Tell the size and name of an image's download."""
    return await get_export(request)


@route("POST", "/1.0/images/{fingerprint}/export", body=ImageExportPost)
async def post_export(request: Request) -> web.StreamResponse:
    """Push an image to another server."""
    image, requestor, images = own_image(request), request.requestor, request.services.images
    body = await request.body(ImageExportPost)
    if not body.target:
        raise BadRequest(f"Pushing image {image.fingerprint} failed: the target is missing")
    profiles = None if body.profiles is None else tuple(body.profiles)
    target = Target(body.target, body.secret, body.certificate, body.project, profiles)

    def work(op: Operation) -> None:
        images.pusher.push(image, target, op)
        images.retrieved(image, body.target, requestor)

    return envelope.operation(
        request.services.operations.task(
            request.project_name, DOWNLOADING, work, requestor=requestor
        )
    )
