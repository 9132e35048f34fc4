# SPDX-License-Identifier: Apache-2.0
"""Changing the owners of a whole tree, for file systems that cannot be mounted idmapped.

What a change of owners would lose is kept: set-id bits, file capabilities (which name the root
that they are for) and the ids in access control lists.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host.idmap import OVERFLOW_ID, Idmap

_CAPABILITY = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
# The header's top byte is the revision; revision 3 ends with the uid of the namespace's root.
_CAP_REVISION_2, _CAP_REVISION_3 = 0x02000000, 0x03000000
_CAP_REVISION_MASK = 0xFF000000
_CAP_SIZE_2 = 20
_ACL_HEADER, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08

Lookup = Callable[[int], int]


def shift(tree: Path, idmap: Idmap) -> None:
    """Turn owners that are a container's ids into the host's of its map.

    Stops half-way on failure: shift a tree with a note of it, so that it can be done again.

    :raises InternalError: an owner is not in the map.
    :raises OSError: the disk is full and the like.
    """

    def uid(ns: int) -> int:
        return _mapped(idmap.host_uid(ns), ns, "uid")

    def gid(ns: int) -> int:
        return _mapped(idmap.host_gid(ns), ns, "gid")

    _walk(tree, uid, gid, _mapped(idmap.host_uid(0), 0, "uid"))


def unshift(tree: Path, idmap: Idmap) -> None:
    """The inverse of :func:`shift`: owners become the container's ids again."""

    def uid(host: int) -> int:
        return _mapped(None if (ns := idmap.ns_uid(host)) == OVERFLOW_ID else ns, host, "uid")

    def gid(host: int) -> int:
        return _mapped(None if (ns := idmap.ns_gid(host)) == OVERFLOW_ID else ns, host, "gid")

    _walk(tree, uid, gid, 0)


def _mapped(found: int | None, number: int, kind: str) -> int:
    if found is None:
        raise InternalError(
            f"Changing the owners of a container's files failed: {kind} {number} is not in its id "
            "map; enlarge security.idmap.size"
        )
    return found


def _entries(tree: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """(directory, name, status) of everything in a tree, its top included, each file once."""
    seen: set[tuple[int, int]] = set()
    for _, names, files, fd in os.fwalk(tree, follow_symlinks=False):
        for name in (".", *files, *_links(names, fd)):
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            yield fd, name, found


def _links(names: list[str], fd: int) -> list[str]:
    """Those of the names that os.walk takes for directories which are links to directories."""
    return [n for n in names if stat.S_ISLNK(os.stat(n, dir_fd=fd, follow_symlinks=False).st_mode)]


def _walk(tree: Path, uid: Lookup, gid: Lookup, root: int) -> None:
    for fd, name, found in _entries(tree):
        path = f"/proc/self/fd/{fd}/{name}"
        capability = _get(path, _CAPABILITY) if stat.S_ISREG(found.st_mode) else None
        os.chown(name, uid(found.st_uid), gid(found.st_gid), dir_fd=fd, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            continue
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=fd)
        for acl in _ACLS:
            value = _get(path, acl)
            if value is not None:
                os.setxattr(path, acl, _shift_acl(value, uid, gid), follow_symlinks=False)
        if capability is not None:
            value = _shift_capability(capability, root)
            os.setxattr(path, _CAPABILITY, value, follow_symlinks=False)


def _get(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def _shift_acl(value: bytes, uid: Lookup, gid: Lookup) -> bytes:
    """An access control list with its named users and groups translated."""
    parts = [value[: _ACL_HEADER.size]]
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]):
        if tag == _ACL_USER:
            number = uid(number)
        elif tag == _ACL_GROUP:
            number = gid(number)
        parts.append(_ACL_ENTRY.pack(tag, permissions, number))
    return b"".join(parts)


def _shift_capability(value: bytes, root: int) -> bytes:
    """File capabilities for the namespace whose root is the host's uid ``root``."""
    (header,) = struct.unpack_from("<I", value)
    flags = header & ~_CAP_REVISION_MASK
    body = value[4:_CAP_SIZE_2]
    if header & _CAP_REVISION_MASK not in (_CAP_REVISION_2, _CAP_REVISION_3):
        return value
    if root == 0:
        return struct.pack("<I", _CAP_REVISION_2 | flags) + body
    return struct.pack("<I", _CAP_REVISION_3 | flags) + body + struct.pack("<I", root)
