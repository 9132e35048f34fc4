# SPDX-License-Identifier: Apache-2.0
"""A root file system as a tar archive with owners, links and extended attributes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import stat
import struct
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from nova_lxd.virt.images.extract import files, roots
from nova_lxd.virt.images.extract.blocks import Blocks

# The disk's own mounts mean nothing in a container, and would fail at its boot.
FSTAB = b"# The root file system is the container's; others are attached by the cloud.\n"
REPLACED = {"etc/fstab": FSTAB}
LEFT_OUT = {"lost+found", ".snapshots"}
TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}  # device nodes and sockets are the container manager's business


def find_root(disk: Blocks) -> roots.Root:
    """Return the root file system of a disk, with what is mounted below it.

    :raises ValueError: there is none that is read here; says what was found
    """
    with _broken():
        return roots.find(disk)


@contextlib.contextmanager
def _broken() -> Iterator[None]:
    """A structure that ends too early, or points outside, is a broken file system."""
    try:
        yield
    except (struct.error, IndexError, OverflowError) as e:
        raise ValueError(f"a file system of the image is broken: {e}")


@dataclasses.dataclass(frozen=True)
class _Place:
    """A file: its path in the archive, and what holds it.

    :param volume: number of the file system, or subvolume, among those of the archive
    """

    path: str
    volume: int
    number: Any


class Writer:
    """Writes one root into an archive.

    :param limit: bytes of file content at which it gives up
    """

    def __init__(self, root: roots.Root, target: BinaryIO, limit: int) -> None:
        self._volumes = [root.system, *root.mounts.values()]
        self._mounts = {path: index for index, path in enumerate(root.mounts, 1)}
        self._archive = tarfile.open(  # noqa: SIM115
            fileobj=target, mode="w|", format=tarfile.PAX_FORMAT
        )
        self._left = limit
        self._links: dict[tuple[int, Any], str] = {}
        self._directories: set[tuple[int, Any]] = set()

    def write(self) -> None:
        """Write everything.

        :raises ValueError: the file system is broken or too large
        """
        with _broken():
            pending = [_Place("", 0, self._volumes[0].root)]
            while pending:
                place = pending.pop()
                inode = self._volumes[place.volume].inode(place.number)
                if stat.S_ISDIR(inode.mode):
                    if (place.volume, place.number) in self._directories:
                        raise ValueError(f"the directory '{place.path}' is reached twice")
                    self._directories.add((place.volume, place.number))
                    pending += self._children(place, inode)
                if place.path:
                    self._add(place, inode)
            self._archive.close()

    def _children(self, place: _Place, inode: files.Inode) -> Iterator[_Place]:
        for name, number in self._volumes[place.volume].entries(inode):
            text = name.decode(errors="surrogateescape")
            if not text or "/" in text or "\0" in text or text in (".", ".."):
                raise ValueError(f"the directory '{place.path}' has an impossible name")
            child = f"{place.path}/{text}" if place.path else text
            mounted = self._mounts.get(child)
            if mounted is not None:
                yield _Place(child, mounted, self._volumes[mounted].root)
            elif child not in LEFT_OUT:
                yield _Place(child, place.volume, number)

    def _add(self, place: _Place, inode: files.Inode) -> None:
        path, system, key = place.path, self._volumes[place.volume], (place.volume, place.number)
        kind = TYPES.get(stat.S_IFMT(inode.mode))
        if kind is None:
            return
        member = tarfile.TarInfo(path)
        member.mode = stat.S_IMODE(inode.mode)
        member.uid, member.gid = inode.uid, inode.gid
        member.mtime = max(0, inode.mtime)
        member.type = kind
        member.pax_headers = _pax(inode.xattrs)
        if kind != tarfile.DIRTYPE and key in self._links:
            member.type, member.linkname = tarfile.LNKTYPE, self._links[key]
            self._archive.addfile(member)
            return
        if inode.links > 1:
            self._links[key] = path
        if kind == tarfile.SYMTYPE:
            member.linkname = system.symlink(inode).decode(errors="surrogateescape")
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
        self._archive.addfile(member, _Reader(system.content(inode)))


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
