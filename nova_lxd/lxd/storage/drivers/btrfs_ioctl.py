# SPDX-License-Identifier: Apache-2.0
"""The ioctls of btrfs (linux/btrfs.h) that volumes need, in-process and without a tree walk.

Every function raises :class:`OSError`.  Buffers are mutable byte arrays because only then does
``fcntl.ioctl`` let other threads run during the call.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0x94
_WRITE, _READ = 1, 2
_NAME_MAX = 255


def _number(direction: int, nr: int, size: int) -> int:
    return direction << 30 | size << 16 | _MAGIC << 8 | nr


_RESIZE = _number(_WRITE, 3, 4096)
_SYNC = _number(0, 8, 0)
_SUBVOL_CREATE = _number(_WRITE, 14, 4096)
_SNAP_DESTROY = _number(_WRITE, 15, 4096)
_TREE_SEARCH_V2 = _number(_READ | _WRITE, 17, 112)
_INO_LOOKUP = _number(_READ | _WRITE, 18, 4096)
_SNAP_CREATE_V2 = _number(_WRITE, 23, 4096)
_SUBVOL_GETFLAGS = _number(_READ, 25, 8)
_SUBVOL_SETFLAGS = _number(_WRITE, 26, 8)
_FS_INFO = _number(_READ, 31, 1024)
_QUOTA_CTL = _number(_READ | _WRITE, 40, 16)
_QGROUP_CREATE = _number(_WRITE, 42, 16)
_QGROUP_LIMIT = _number(_READ, 43, 48)
_QUOTA_RESCAN_WAIT = _number(0, 46, 0)

_SUBVOL_RDONLY = 1 << 1
_QUOTA_ENABLE = 1
_LIMIT_MAX_RFER = 1
_NO_LIMIT = 2**64 - 1

#: The inode number of every subvolume's root directory.
SUBVOLUME_INODE = 256
_ROOT_TREE = 1
_QUOTA_TREE = 8
_ORPHANS = 2**64 - 5
_ORPHAN_ITEM = 48
_ROOT_BACKREF = 144
_ROOT_REF = 156
_QGROUP_INFO = 242
_ANY = 2**64 - 1
_SEARCH_BUFFER = 256 * 1024

_KEY = struct.Struct("=7Q4I4Q")
_HEADER = struct.Struct("=3Q2I")
_REF = struct.Struct("=QQH")


@dataclass(frozen=True)
class Reference:
    """Where a subvolume hangs: its id, its parent subvolume, the directory inode, and its name."""

    id: int
    parent: int
    directory: int
    name: str


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of a directory for the ioctls below; a symbolic link is refused."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _name(name: str) -> bytes:
    raw = os.fsencode(name)
    if not 0 < len(raw) <= _NAME_MAX or b"/" in raw:
        raise ValueError(f"bad subvolume name {name!r}")
    return raw


def is_btrfs(path: Path) -> bool:
    """Is the directory on a btrfs file system?"""
    with opened(path) as fd:
        try:
            fcntl.ioctl(fd, _FS_INFO, bytearray(1024))
        except OSError:
            return False
    return True


def is_subvolume(path: Path) -> bool:
    """Is this directory of a btrfs file system the root of a subvolume?"""
    return path.lstat().st_ino == SUBVOLUME_INODE


def create_subvolume(path: Path) -> None:
    """Make an empty subvolume at ``path``; EEXIST when something is there."""
    with opened(path.parent) as fd:
        fcntl.ioctl(fd, _SUBVOL_CREATE, bytearray(struct.pack("=q4088s", 0, _name(path.name))))


def snapshot(source: Path, target: Path, *, readonly: bool = False) -> None:
    """Clone one subvolume at once, without those nested in it; EEXIST when target is there."""
    with opened(source) as source_fd, opened(target.parent) as fd:
        flags = _SUBVOL_RDONLY if readonly else 0
        args = struct.pack("=qQQ32x4040s", source_fd, 0, flags, _name(target.name))
        fcntl.ioctl(fd, _SNAP_CREATE_V2, bytearray(args))


def destroy(path: Path) -> None:
    """Remove one subvolume that has no other nested in it; the kernel frees its space later."""
    with opened(path.parent) as fd:
        fcntl.ioctl(fd, _SNAP_DESTROY, bytearray(struct.pack("=q4088s", 0, _name(path.name))))


def is_readonly(path: Path) -> bool:
    """Is the subvolume at ``path`` read-only?"""
    flags = bytearray(8)
    with opened(path) as fd:
        fcntl.ioctl(fd, _SUBVOL_GETFLAGS, flags)
    return bool(struct.unpack("=Q", flags)[0] & _SUBVOL_RDONLY)


def set_readonly(path: Path, readonly: bool) -> None:
    """Make the subvolume at ``path`` read-only or writable."""
    with opened(path) as fd:
        flags = struct.pack("=Q", _SUBVOL_RDONLY if readonly else 0)
        fcntl.ioctl(fd, _SUBVOL_SETFLAGS, bytearray(flags))


def subvolume_id(fd: int) -> int:
    """The id of the subvolume that the open directory is in."""
    args = bytearray(4096)
    struct.pack_into("=QQ", args, 0, 0, SUBVOLUME_INODE)
    fcntl.ioctl(fd, _INO_LOOKUP, args)
    found: int = struct.unpack_from("=Q", args)[0]
    return found


def _directory_path(fd: int, subvolume: int, inode: int) -> str:
    """The path of a directory below its subvolume's root, ending in a slash unless empty."""
    args = bytearray(4096)
    struct.pack_into("=QQ", args, 0, subvolume, inode)
    fcntl.ioctl(fd, _INO_LOOKUP, args)
    return os.fsdecode(bytes(args[16:]).split(b"\0", 1)[0])


def _search(
    fd: int, tree: int, first: tuple[int, int, int], last: tuple[int, int, int]
) -> Iterator[tuple[int, int, int, bytes]]:
    """The items of a tree from key ``first`` to ``last``: (object id, type, offset, data)."""
    buffer = bytearray(112 + _SEARCH_BUFFER)
    while first <= last:
        objectid, kind, offset = first
        # Types and offsets bound every item here, unlike object ids: the caller filters.
        key = (tree, objectid, last[0], offset, last[2], 0, _ANY, kind, last[1], 2**32 - 1)
        _KEY.pack_into(buffer, 0, *key, 0, 0, 0, 0, 0)
        struct.pack_into("=Q", buffer, 104, _SEARCH_BUFFER)
        fcntl.ioctl(fd, _TREE_SEARCH_V2, buffer)
        count = struct.unpack_from("=I", buffer, 64)[0]
        if not count:
            return
        position = 112
        for _ in range(count):
            _, objectid, offset, kind, length = _HEADER.unpack_from(buffer, position)
            position += _HEADER.size
            yield objectid, kind, offset, bytes(buffer[position : position + length])
            position += length
        first = (objectid, kind, offset + 1) if offset < _ANY else (objectid, kind + 1, 0)


def _reference(child: int, parent: int, data: bytes) -> Reference:
    directory, _, length = _REF.unpack_from(data)
    name = os.fsdecode(data[_REF.size : _REF.size + length])
    return Reference(child, parent, directory, name)


def nested(path: Path) -> list[str]:
    """Paths of the subvolumes nested below the one at ``path``, relative to it, parents first.

    One ioctl where there are none, whatever the size of the tree.
    """
    with opened(path) as fd:
        found: list[str] = []
        pending = [(subvolume_id(fd), "")]
        while pending:
            parent, prefix = pending.pop()
            first, last = (parent, _ROOT_REF, 0), (parent, _ROOT_REF, _ANY)
            for objectid, kind, child, data in _search(fd, _ROOT_TREE, first, last):
                if (objectid, kind) != (parent, _ROOT_REF):
                    continue
                reference = _reference(child, parent, data)
                below = _directory_path(fd, parent, reference.directory) + reference.name
                found.append(prefix + below)
                pending.append((child, f"{prefix}{below}/"))
        return sorted(found, key=lambda name: name.count("/"))


def references(fd: int) -> Iterator[Reference]:
    """Every subvolume of the file system with where it hangs, in one pass over the root tree."""
    for child, kind, parent, data in _search(fd, _ROOT_TREE, (256, 0, 0), (_ANY - 256, 255, _ANY)):
        if kind == _ROOT_BACKREF:
            yield _reference(child, parent, data)


def has_dead_subvolumes(fd: int) -> bool:
    """Does the file system still hold space of subvolumes that were destroyed?"""
    first, last = (_ORPHANS, _ORPHAN_ITEM, 0), (_ORPHANS, _ORPHAN_ITEM, _ANY)
    return any(kind == _ORPHAN_ITEM for _, kind, _, _ in _search(fd, _ROOT_TREE, first, last))


def enable_quota(fd: int) -> None:
    """Turn quota groups on for the file system and wait until they have counted what is there."""
    fcntl.ioctl(fd, _QUOTA_CTL, bytearray(struct.pack("=QQ", _QUOTA_ENABLE, 0)))
    fcntl.ioctl(fd, _QUOTA_RESCAN_WAIT)


def limit(fd: int, subvolume: int, size: int) -> None:
    """Limit what a subvolume may refer to, 0 for no limit; ENOTCONN while quotas are off."""
    args = struct.pack("=6Q", subvolume, _LIMIT_MAX_RFER, size or _NO_LIMIT, 0, 0, 0)
    fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(args))


def remove_qgroup(fd: int, subvolume: int) -> None:
    """Forget the quota group of a removed subvolume."""
    fcntl.ioctl(fd, _QGROUP_CREATE, bytearray(struct.pack("=QQ", 0, subvolume)))


def referred(fd: int, subvolume: int | None = None) -> dict[int, int]:
    """Bytes that subvolumes (or one) refer to, by their id; ENOENT while quotas are off."""
    low, high = (0, 2**48 - 1) if subvolume is None else (subvolume, subvolume)
    first, last = (0, _QGROUP_INFO, low), (0, _QGROUP_INFO, high)
    return {
        group: struct.unpack_from("=2Q", data)[1]
        for _, kind, group, data in _search(fd, _QUOTA_TREE, first, last)
        if kind == _QGROUP_INFO
    }


def sync(fd: int) -> None:
    """Commit the running transaction of the file system."""
    fcntl.ioctl(fd, _SYNC)


def grow_to_device(fd: int) -> None:
    """Resize the file system to the size of its only device."""
    fcntl.ioctl(fd, _RESIZE, bytearray(struct.pack("=q4088s", 0, b"max")))
