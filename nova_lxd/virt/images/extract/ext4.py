# SPDX-License-Identifier: Apache-2.0
"""ext2, ext3 and ext4, read-only. Layout: "ext4 Data Structures and Algorithms", kernel docs."""

from __future__ import annotations

import dataclasses
import stat
import struct
import uuid
from collections.abc import Iterator

from nova_lxd.virt.images.extract import files
from nova_lxd.virt.images.extract.blocks import Part

MAGIC = 0xEF53
ROOT_INODE = 2
EXTENT_MAGIC = 0xF30A
XATTR_MAGIC = 0xEA020000
MAX_DEPTH = 5
MAX_DIRECTORY = 1 << 28  # bytes of one directory
UNINITIALISED = 32768

FLAG_EXTENTS = 0x80000
FLAG_INLINE = 0x10000000
FLAG_ENCRYPTED = 0x800

# Incompatible features: what is understood, and the names of what is not.
FILETYPE, EXTENTS, BITS64, MMP, FLEX_BG = 0x2, 0x40, 0x80, 0x100, 0x200
CSUM_SEED, LARGE_DIR, INLINE_DATA = 0x2000, 0x4000, 0x8000
UNDERSTOOD = FILETYPE | EXTENTS | BITS64 | MMP | FLEX_BG | CSUM_SEED | LARGE_DIR | INLINE_DATA
NOT_UNDERSTOOD = {
    0x1: "compression",
    0x4: "a journal that was not replayed (run fsck on the image)",
    0x8: "an external journal",
    0x10: "meta_bg",
    0x400: "extended attributes in inodes",
    0x1000: "data in directories",
    0x10000: "encryption",
    0x20000: "case folding",
}
XATTR_PREFIXES = {1: "user.", 4: "trusted.", 6: "security.", 7: "system."}


@dataclasses.dataclass(frozen=True)
class Inode(files.Inode):
    """An inode with where its content is."""

    flags: int
    block: bytes
    blocks: int


def is_here(part: Part) -> bool:
    """Tell whether a partition holds one of the family."""
    return part.size > 2048 and struct.unpack("<H", part.read_at(1024 + 0x38, 2))[0] == MAGIC


class FileSystem:
    """An ext2/3/4 file system.

    :raises ValueError: it is broken, or uses a feature that is not read here
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        block = part.read_at(1024, 1024)
        self._inodes, blocks_low = struct.unpack_from("<II", block, 0)
        first_data, log_size = struct.unpack_from("<II", block, 0x14)
        (self._per_group,) = struct.unpack_from("<I", block, 0x28)
        (revision,) = struct.unpack_from("<I", block, 0x4C)
        (inode_size,) = struct.unpack_from("<H", block, 0x58)
        (incompat,) = struct.unpack_from("<I", block, 0x60)
        (descriptor,) = struct.unpack_from("<H", block, 0xFE)
        if log_size > 6 or not self._per_group:
            raise ValueError("the file system's superblock is broken")
        for bit, name in NOT_UNDERSTOOD.items():
            if incompat & bit:
                raise ValueError(f"the file system has {name}")
        if incompat & ~UNDERSTOOD:
            raise ValueError(f"the file system has unknown features ({incompat:#x})")
        self.block_size = 1024 << log_size
        self._inode_size = inode_size if revision else 128
        self._wide = bool(incompat & BITS64)
        self._descriptor = descriptor if self._wide else 32
        if not 128 <= self._inode_size <= self.block_size or self._descriptor < 32:
            raise ValueError("the file system's superblock is broken")
        self._table = (first_data + 1) * self.block_size
        self.size = blocks_low * self.block_size
        self.root = ROOT_INODE
        self.uuid = str(uuid.UUID(bytes=block[0x68:0x78]))
        self.label = block[0x78:0x88].split(b"\0")[0].decode(errors="replace")

    def roots(self) -> list[FileSystem]:
        """Return itself."""
        return [self]

    def subvolume(self, options: dict[str, str]) -> FileSystem:
        """Return itself: there are no subvolumes."""
        return self

    # -- inodes -----------------------------------------------------------------------------

    def inode(self, number: int) -> Inode:
        """Return an inode.

        :raises ValueError: there is none of this number
        """
        if not 0 < number <= self._inodes:
            raise ValueError(f"there is no inode {number}")
        group, index = divmod(number - 1, self._per_group)
        descriptor = self._part.read_at(self._table + group * self._descriptor, self._descriptor)
        (table,) = struct.unpack_from("<I", descriptor, 8)
        if self._wide and self._descriptor >= 64:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        at = table * self.block_size + index * self._inode_size
        return self._parse(number, self._part.read_at(at, self._inode_size))

    def _parse(self, number: int, raw: bytes) -> Inode:
        mode, uid, size = struct.unpack_from("<HHI", raw, 0)
        (mtime,) = struct.unpack_from("<i", raw, 0x10)
        gid, links, blocks, flags = struct.unpack_from("<HHII", raw, 0x18)
        acl, size_high = struct.unpack_from("<II", raw, 0x68)
        acl_high, uid_high, gid_high = struct.unpack_from("<HHH", raw, 0x76)
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            size |= size_high << 32
        if flags & FLAG_ENCRYPTED:
            raise ValueError("the file system has encrypted files")
        xattrs = self._inner_xattrs(raw)
        if acl or acl_high:
            raw_block = self._block(acl | acl_high << 32)
            if struct.unpack_from("<I", raw_block, 0)[0] != XATTR_MAGIC:
                raise ValueError(f"the extended attributes of inode {number} are broken")
            xattrs |= _xattrs(raw_block, 32, 0)
        return Inode(
            number, mode, uid | uid_high << 16, gid | gid_high << 16, size, mtime, links, xattrs,
            flags, raw[0x28:0x64], blocks,
        )  # fmt: skip

    def _inner_xattrs(self, raw: bytes) -> dict[str, bytes]:
        if len(raw) < 132:
            return {}
        start = 128 + struct.unpack_from("<H", raw, 0x80)[0]
        if start + 4 > len(raw) or struct.unpack_from("<I", raw, start)[0] != XATTR_MAGIC:
            return {}
        return _xattrs(raw, start + 4, start + 4)

    # -- content ----------------------------------------------------------------------------

    def content(self, inode: Inode) -> Iterator[bytes]:
        """Return a file's content in pieces; holes are zeros."""
        if inode.flags & FLAG_INLINE:
            data = inode.block + inode.xattrs.get("system.data", b"")
            yield data[: inode.size]
            return
        done = 0
        for logical, count, physical in self._runs(inode):
            start = logical * self.block_size
            if start < done or count < 0:
                raise ValueError(f"the blocks of inode {inode.number} are not in order")
            yield from files.zeros(min(start, inode.size) - done)
            done = min(start, inode.size)
            length = min(count * self.block_size, inode.size - done)
            if physical is None:
                yield from files.zeros(length)
            else:
                yield from self._pieces(physical * self.block_size, length)
            done += length
        yield from files.zeros(inode.size - done)

    def symlink(self, inode: Inode) -> bytes:
        """Return a symbolic link's target."""
        if inode.size < 60 and not inode.flags & (FLAG_EXTENTS | FLAG_INLINE):
            return inode.block[: inode.size]
        if inode.size > files.MAX_SYMLINK:
            raise ValueError(f"the symbolic link {inode.number} is too long")
        return b"".join(self.content(inode))

    def entries(self, inode: Inode) -> list[tuple[bytes, int]]:
        """Return a directory's names and inode numbers, without ``.`` and ``..``."""
        if inode.size > MAX_DIRECTORY:
            raise ValueError(f"the directory {inode.number} is too large")
        if inode.flags & FLAG_INLINE:
            # four bytes of the parent's number come first
            chunks = [inode.block[4:], inode.xattrs.get("system.data", b"")]
        else:
            data = b"".join(self.content(inode))
            size = self.block_size
            chunks = [data[at : at + size] for at in range(0, len(data), size)]
        found = []
        for chunk in chunks:
            found += _entries(chunk)
        return found

    def _pieces(self, at: int, length: int) -> Iterator[bytes]:
        while length:
            count = min(length, 1 << 20)
            yield self._part.read_at(at, count)
            at += count
            length -= count

    def _block(self, number: int) -> bytes:
        return self._part.read_at(number * self.block_size, self.block_size)

    def _runs(self, inode: Inode) -> Iterator[tuple[int, int, int | None]]:
        """Yield (first logical block, count, first physical block or None for zeros)."""
        if inode.flags & FLAG_EXTENTS:
            yield from self._extents(inode.block, MAX_DEPTH)
            return
        pointers = struct.unpack("<15I", inode.block)
        logical = 0
        for level, first, last in ((0, 0, 12), (1, 12, 13), (2, 13, 14), (3, 14, 15)):
            for pointer in pointers[first:last]:
                if logical * self.block_size >= inode.size:
                    return
                yield from self._indirect(pointer, level, logical)
                logical += (self.block_size // 4) ** level

    def _extents(self, node: bytes, depth_left: int) -> Iterator[tuple[int, int, int | None]]:
        magic, count, _, depth = struct.unpack_from("<HHHH", node, 0)
        if magic != EXTENT_MAGIC or depth > depth_left or 12 + count * 12 > len(node):
            raise ValueError("an extent tree is broken")
        for index in range(count):
            at = 12 + index * 12
            if depth:
                low, high = struct.unpack_from("<IH", node, at + 4)
                yield from self._extents(self._block(low | high << 32), depth - 1)
                continue
            logical, length, high, low = struct.unpack_from("<IHHI", node, at)
            if length > UNINITIALISED:
                yield logical, length - UNINITIALISED, None
            else:
                yield logical, length, low | high << 32

    def _indirect(
        self, pointer: int, level: int, logical: int
    ) -> Iterator[tuple[int, int, int | None]]:
        if not pointer:
            return  # a hole
        if not level:
            yield logical, 1, pointer
            return
        below = (self.block_size // 4) ** (level - 1)
        for (child,) in struct.iter_unpack("<I", self._block(pointer)):
            yield from self._indirect(child, level - 1, logical)
            logical += below


def _entries(chunk: bytes) -> Iterator[tuple[bytes, int]]:
    at = 0
    while at + 8 <= len(chunk):
        number, length, name_length = struct.unpack_from("<IHB", chunk, at)
        if length in (0, 65535) and len(chunk) == 65536:
            length = 65536
        if length < 8 or at + length > len(chunk) or name_length > length - 8:
            raise ValueError("a directory is broken")
        name = chunk[at + 8 : at + 8 + name_length]
        if number and name not in (b".", b".."):
            yield name, number
        at += length


def _xattrs(raw: bytes, at: int, base: int) -> dict[str, bytes]:
    """Read the attributes whose entries begin at ``at``; values lie relative to ``base``."""
    found = {}
    while at + 16 <= len(raw) and raw[at : at + 4] != bytes(4):
        name_length, prefix, offset, in_inode, size = struct.unpack_from("<BBHII", raw, at)
        name = raw[at + 16 : at + 16 + name_length].decode(errors="surrogateescape")
        if in_inode or base + offset + size > len(raw):
            raise ValueError("extended attributes are broken")
        if prefix in XATTR_PREFIXES:
            found[XATTR_PREFIXES[prefix] + name] = raw[base + offset : base + offset + size]
        at += (16 + name_length + 3) & ~3
    return found
