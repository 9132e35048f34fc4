# SPDX-License-Identifier: Apache-2.0
"""A root file system as a tar archive with owners, links and extended attributes."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from nova_lxd.virt.images.extract import ext4, partitions
from nova_lxd.virt.images.extract.blocks import Blocks

# The disk's own mounts mean nothing in a container, and would fail at its boot.
FSTAB = b"# The root file system is the container's; others are attached by the cloud.\n"
REPLACED = {"etc/fstab": FSTAB}
LEFT_OUT = {"lost+found"}
TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}  # device nodes and sockets are the container manager's business


def find_root(disk: Blocks) -> ext4.FileSystem:
    """Return the file system that holds a root.

    :raises ValueError: there is none that is read here; says what was found
    """
    seen = []
    for part in partitions.parts(disk):
        if not ext4.is_ext(part):
            seen.append(partitions.other_content(part))
            continue
        system = ext4.FileSystem(part)
        names = {name for name, _ in system.entries(system.inode(ext4.ROOT_INODE))}
        if b"etc" in names and names & {b"usr", b"bin", b"sbin"}:
            return system
    others = sorted({name for name in seen if name})
    found = f"; found: {', '.join(others)}" if others else ""
    raise ValueError(f"no partition holds a root file system of the kind ext2, ext3, ext4{found}")


class Writer:
    """Writes one file system into an archive.

    :param limit: bytes of file content at which it gives up
    """

    def __init__(self, system: ext4.FileSystem, target: BinaryIO, limit: int) -> None:
        self._system = system
        self._archive = tarfile.open(  # noqa: SIM115
            fileobj=target, mode="w|", format=tarfile.PAX_FORMAT
        )
        self._left = limit
        self._links: dict[int, str] = {}
        self._directories: set[int] = set()

    def write(self) -> None:
        """Write everything.

        :raises ValueError: the file system is broken or too large
        """
        pending = [("", ext4.ROOT_INODE)]
        while pending:
            path, number = pending.pop()
            inode = self._system.inode(number)
            if stat.S_ISDIR(inode.mode):
                if number in self._directories:
                    raise ValueError(f"the directory '{path}' is reached twice")
                self._directories.add(number)
                pending += self._children(path, inode)
            if path:
                self._add(path, inode)
        self._archive.close()

    def _children(self, path: str, inode: ext4.Inode) -> Iterator[tuple[str, int]]:
        for name, number in self._system.entries(inode):
            text = name.decode(errors="surrogateescape")
            if not text or "/" in text or "\0" in text:
                raise ValueError(f"the directory '{path}' has an impossible name")
            child = f"{path}/{text}" if path else text
            if child not in LEFT_OUT:
                yield child, number

    def _add(self, path: str, inode: ext4.Inode) -> None:
        kind = TYPES.get(stat.S_IFMT(inode.mode))
        if kind is None:
            return
        member = tarfile.TarInfo(path)
        member.mode = stat.S_IMODE(inode.mode)
        member.uid, member.gid = inode.uid, inode.gid
        member.mtime = max(0, inode.mtime)
        member.type = kind
        member.pax_headers = _pax(inode.xattrs)
        if kind != tarfile.DIRTYPE and inode.number in self._links:
            member.type, member.linkname = tarfile.LNKTYPE, self._links[inode.number]
            self._archive.addfile(member)
            return
        if inode.links > 1:
            self._links[inode.number] = path
        if kind == tarfile.SYMTYPE:
            member.linkname = self._system.symlink(inode).decode(errors="surrogateescape")
        if kind != tarfile.REGTYPE:
            self._archive.addfile(member)
            return
        if path in REPLACED:
            member.size = len(REPLACED[path])
            self._archive.addfile(member, io.BytesIO(REPLACED[path]))
            return
        self._left -= inode.size
        if self._left < 0:
            raise ValueError("its files are larger than [lxd]image_max_unpacked_gb")
        member.size = inode.size
        self._archive.addfile(member, _Reader(self._system.content(inode)))


class _Reader(io.RawIOBase):
    """The content of a file, as tarfile reads it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        parts, missing = [], size
        while missing:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    break
            taken, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(taken)
            missing -= len(taken)
        return b"".join(parts)


def _pax(xattrs: dict[str, bytes]) -> dict[str, str]:
    """Return the headers by which tar carries the attributes that a container may have."""
    return {
        f"SCHILY.xattr.{name}": value.decode(errors="surrogateescape")
        for name, value in xattrs.items()
        if name.startswith(("user.", "security.capability"))
    }
