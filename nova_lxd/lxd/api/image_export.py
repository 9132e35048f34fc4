# SPDX-License-Identifier: Apache-2.0
"""/1.0/images/FINGERPRINT/export: an image's files as a download."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from nova_lxd.lxd.api.images import visible_image
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.images import formats
from nova_lxd.lxd.images.metadata import VIRTUAL_MACHINE

_CHUNK = 1024 * 1024


def _suffix(path: Path) -> str:
    """The file name suffix that tells a file's format; none when it is unknown."""
    try:
        return formats.detect(path).suffix
    except BadRequest:
        return ""
    except FileNotFoundError as exc:
        raise NotFound(f"Exporting image {path.name} failed: its file is gone") from exc


def _part_head(boundary: str, name: str, filename: str) -> bytes:
    return (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


@route("GET", "/1.0/images/{fingerprint}/export", public=True)
async def get_export(request: Request) -> web.StreamResponse:
    """Download an image: its file, or metadata and root as a multipart form."""
    image = visible_image(request)
    store = request.services.images.store
    path = store.path(image.fingerprint)
    rootfs = store.rootfs(image.fingerprint)
    suffix = await request.run(_suffix, path)
    request.services.images.retrieved(image, "", request.requestor)
    if rootfs is not None:
        return await _send_split(request, image, path, rootfs)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"inline;filename={image.fingerprint}{suffix}",
    }
    return web.FileResponse(path, chunk_size=_CHUNK, headers=headers)


async def _send_split(
    request: Request, image: Image, path: Path, rootfs: Path
) -> web.StreamResponse:
    boundary = secrets.token_hex(30)
    root_name = "rootfs.img" if image.type == VIRTUAL_MACHINE else "rootfs"
    name = image.fingerprint
    heads = (
        _part_head(boundary, "metadata", f"meta-{name}{_suffix(path)}"),
        b"\r\n" + _part_head(boundary, root_name, f"{name}{_suffix(rootfs)}"),
    )
    tail = f"\r\n--{boundary}--\r\n".encode()
    response = web.StreamResponse(
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    with path.open("rb") as first, rootfs.open("rb") as second:
        files: tuple[BinaryIO, ...] = (first, second)
        response.content_length = image.size + sum(map(len, heads)) + len(tail)
        await response.prepare(request.http)
        if request.http.method == "HEAD":
            return response
        for head, file in zip(heads, files, strict=True):
            await response.write(head)
            while data := await request.run(file.read, _CHUNK):
                await response.write(data)
        await response.write(tail)
        await response.write_eof()
    return response


@route("HEAD", "/1.0/images/{fingerprint}/export", public=True)
async def head_export(request: Request) -> web.StreamResponse:
    """Tell the size and name of an image's download."""
    return await get_export(request)
