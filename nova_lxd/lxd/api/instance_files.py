# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/files: read, write, list and delete files inside."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import BadRequest, attempting
from nova_lxd.lxd.host.files import FileInfo, Rootfs
from nova_lxd.lxd.instances.files import check_path, open_rootfs, told
from nova_lxd.lxd.instances.instance import Instance

_CHUNK = 1 << 20
_MAX_ID = 2**32 - 2
# The beginning of the year 1 and the end of the year 9999.
_FIRST_SECOND, _LAST_SECOND = -62135596800.0, 253402300799.0


@dataclass(frozen=True)
class _Attributes:
    """The X-LXD-* headers of an upload; None for what was not given."""

    kind: str
    append: bool
    mode: int | None
    uid: int | None
    gid: int | None


def _number(request: Request, name: str, base: int, limit: int) -> int | None:
    text = request.http.headers.get(name)
    if text is None or text == "":
        return None
    try:
        value = int(text, base)
    except ValueError as exc:
        raise BadRequest(f"Invalid header {name}: {text[:64]!r} is no number") from exc
    if not 0 <= value <= limit:
        raise BadRequest(f"Invalid header {name}: {text[:64]!r} is out of range")
    return value


def _attributes(request: Request) -> _Attributes:
    kind = request.http.headers.get("X-LXD-type") or "file"
    if kind not in ("file", "directory", "symlink"):
        raise BadRequest(f"Bad file type: {kind[:64]!r}")
    write = request.http.headers.get("X-LXD-write") or "overwrite"
    if write not in ("overwrite", "append"):
        raise BadRequest(f"Bad file write mode: {write[:64]!r}")
    return _Attributes(
        kind,
        write == "append",
        _number(request, "X-LXD-mode", 8, 0o7777),
        _number(request, "X-LXD-uid", 10, _MAX_ID),
        _number(request, "X-LXD-gid", 10, _MAX_ID),
    )


def _instance(request: Request) -> Instance:
    return request.services.instances.get(request.project().name, request.path("name"))


def _open(request: Request, instance: Instance) -> Rootfs:
    services = request.services
    pool = services.instances.record(instance).pool
    with attempting(f"Opening the files of {instance}"):
        return open_rootfs(instance, services.storage, pool)


def _headers(info: FileInfo) -> dict[str, str]:
    kind = info.kind if info.kind != "other" else "file"
    # A guest may give a file any time, beyond the years that there are.
    seconds = min(max(info.mtime, _FIRST_SECOND), _LAST_SECOND)
    modified = datetime.fromtimestamp(seconds, UTC)
    return {
        "X-LXD-uid": str(info.uid),
        "X-LXD-gid": str(info.gid),
        "X-LXD-mode": f"{info.mode:04o}",
        "X-LXD-modified": modified.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "X-LXD-type": kind,
    }


@dataclass
class _Found:
    """What a path is, with what of it is needed: names, a link's target or a descriptor."""

    info: FileInfo
    names: list[str] | None = None
    target: str | None = None
    fd: int = -1


def _look(request: Request, instance: Instance, path: str) -> _Found:
    with _open(request, instance) as rootfs, told("Reading", path):
        info = rootfs.stat(path)
        if info.kind == "directory":
            return _Found(info, names=rootfs.listdir(path))
        if info.kind == "symlink":
            return _Found(info, target=rootfs.readlink(path))
        fd = rootfs.open_read(path)
        # By now the guest may have put another file there.
        return _Found(rootfs.describe(fd), fd=fd)


@route("GET", "/1.0/instances/{name}/files")
@route("GET", "/1.0/containers/{name}/files")
async def get_file(request: Request) -> web.StreamResponse:
    """Read a file or link, or list a directory."""
    path = check_path(request.path_query())
    found = await request.run(_look, request, _instance(request), path)
    headers = _headers(found.info)
    if found.names is not None:
        return envelope.sync(found.names, headers=headers)
    headers["Content-Disposition"] = f"inline;filename={safe_name(PurePosixPath(path).name)}"
    if found.target is not None:
        # LXD answers the absolute path, a relative target taken from the link's directory.
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found.target))
        return web.Response(
            body=target.encode("utf-8", "surrogateescape"),
            content_type="application/octet-stream",
            headers=headers,
        )
    return await _send(request, found, headers)


def safe_name(name: str) -> str:
    """A file name as it may stand in a header."""
    return "".join(c if c.isprintable() and c not in '";\\' else "_" for c in name)


async def _send(request: Request, found: _Found, headers: dict[str, str]) -> web.StreamResponse:
    fd = found.fd
    try:
        response = web.StreamResponse(headers=headers)
        response.content_type = "application/octet-stream"
        first = await request.attempt("Reading the file", os.read, fd, _CHUNK)
        # Files of /proc say size 0 and have content: only trust a size that was not reached.
        if len(first) <= found.info.size:
            response.content_length = found.info.size
        await response.prepare(request.http)
        left = found.info.size if response.content_length is not None else None
        data = first
        while data and (left is None or left > 0):
            if left is not None:
                data = data[:left]  # it may grow while it is read
                left -= len(data)
            await response.write(data)
            data = await request.run(os.read, fd, _CHUNK)
        if left and request.http.transport is not None:
            # It was cut off while it was read, and the client waits for what was promised.
            request.http.transport.abort()
        await response.write_eof()
        return response
    finally:
        os.close(fd)


@route("HEAD", "/1.0/instances/{name}/files")
@route("HEAD", "/1.0/containers/{name}/files")
async def head_file(request: Request) -> web.StreamResponse:
    """Tell a file's type, owner and mode."""
    path = check_path(request.path_query())

    def look(instance: Instance) -> FileInfo:
        with _open(request, instance) as rootfs, told("Reading", path):
            return rootfs.stat(path)

    info = await request.run(look, _instance(request))
    return web.Response(headers=_headers(info), content_type="application/json")


@route("POST", "/1.0/instances/{name}/files")
@route("POST", "/1.0/containers/{name}/files")
async def post_file(request: Request) -> web.StreamResponse:
    """Write a file, or make a directory or link."""
    path = check_path(request.path_query())
    attributes = _attributes(request)
    instance = _instance(request)
    if attributes.kind == "directory":
        await request.run(_make_directory, request, instance, path, attributes)
    elif attributes.kind == "symlink":
        target = (await request.raw_body()).decode("utf-8", "surrogateescape")
        await request.run(_make_link, request, instance, path, attributes, target)
    else:
        await _receive(request, instance, path, attributes)
    services = request.services
    services.instances.announce(
        "instance-file-pushed", instance, context={"path": path}, requestor=request.requestor
    )
    return envelope.sync({})


def _make_directory(request: Request, instance: Instance, path: str, wanted: _Attributes) -> None:
    mode = 0o755 if wanted.mode is None else wanted.mode
    with _open(request, instance) as rootfs, told("Making directory", path):
        try:
            rootfs.mkdir(path, mode=mode, uid=wanted.uid or 0, gid=wanted.gid or 0)
        except FileExistsError:
            if rootfs.stat(path).kind != "directory":
                raise


def _make_link(
    request: Request, instance: Instance, path: str, wanted: _Attributes, target: str
) -> None:
    if not target or "\0" in target:
        raise BadRequest(f"Making link {path!r} failed: the body holds no target")
    with _open(request, instance) as rootfs, told("Making link", path):
        rootfs.symlink(target, path, uid=wanted.uid or 0, gid=wanted.gid or 0)


async def _receive(request: Request, instance: Instance, path: str, wanted: _Attributes) -> None:
    def begin() -> int:
        with _open(request, instance) as rootfs, told("Writing", path):
            return rootfs.open_write(
                path, append=wanted.append, mode=wanted.mode, uid=wanted.uid, gid=wanted.gid
            )

    fd = await request.run(begin)
    try:
        with told("Writing", path):
            await request.save_body(fd)
    finally:
        os.close(fd)


@route("DELETE", "/1.0/instances/{name}/files")
@route("DELETE", "/1.0/containers/{name}/files")
async def delete_file(request: Request) -> web.StreamResponse:
    """Delete a file, link or empty directory."""
    path = check_path(request.path_query())
    instance = _instance(request)

    def remove() -> None:
        with _open(request, instance) as rootfs, told("Deleting", path):
            rootfs.remove(path)

    await request.run(remove)
    request.services.instances.announce(
        "instance-file-deleted", instance, context={"path": path}, requestor=request.requestor
    )
    return envelope.sync()
