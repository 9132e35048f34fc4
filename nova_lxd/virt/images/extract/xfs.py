# SPDX-License-Identifier: Apache-2.0
"""XFS, versions 4 and 5, read-only. Layout: "XFS Algorithms & Data Structures", xfs.org."""

from __future__ import annotations

import dataclasses
import stat
import struct
import uuid
from collections.abc import Iterator

from nova_lxd.virt.images.extract import files, xfs_attributes
from nova_lxd.virt.images.extract.blocks import Part
from nova_lxd.virt.images.extract.xfs_layout import BTREE, EXTENTS, LOCAL, Fork, unwrapped

MAGIC = b"XFSB"
MAX_DEPTH = 9
MAX_DIRECTORY = 1 << 28  # bytes of one directory
LEAF_OFFSET = 1 << 35  # where a directory's hash index begins; its names lie before
PIECE = 1 << 20

# Incompatible features of version 5: what is understood, and the names of what is not.
FTYPE, SPARSE, META_UUID, BIGTIME, NREXT64, EXCHANGE, PARENT = 1, 2, 4, 8, 32, 64, 128
UNDERSTOOD = FTYPE | SPARSE | META_UUID | BIGTIME | NREXT64 | EXCHANGE | PARENT
NEEDS_REPAIR = 16
VERSION_4_FTYPE = 0x200
FLAG_REALTIME = 1
FLAG2_BIGTIME, FLAG2_NREXT64 = 1 << 3, 1 << 4
BIGTIME_EPOCH = 1 << 31
DIRECTORY_MAGICS = (b"XD2B", b"XDB3", b"XD2D", b"XDD3")
WITH_TAIL = (b"XD2B", b"XDB3")
LOG_RECORD = b"\xfe\xed\xba\xbe"
UNMOUNTED = 0x20

Run = tuple[int, int, int | None]  # logical block, count, physical block (None: zeros)


@dataclasses.dataclass(frozen=True)
class Inode(files.Inode):
    """An inode with its data fork."""

    data: Fork


def is_here(part: Part) -> bool:
    """Tell whether a partition holds XFS."""
    return part.size > 512 and part.read_at(0, 4) == MAGIC


class FileSystem:
    """An XFS file system.

    :raises ValueError: it is broken, was not unmounted, or uses a feature that is not read here
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        block = part.read_at(0, 512)
        self.block_size, self._blocks = struct.unpack_from(">IQ", block, 4)
        (self.root,) = struct.unpack_from(">Q", block, 56)
        self._ag_blocks, self._ags = struct.unpack_from(">II", block, 84)
        version, _, self._inode_size, per_block = struct.unpack_from(">HHHH", block, 100)
        self.label = block[108:120].rstrip(b"\0").decode(errors="replace")
        self.uuid = str(uuid.UUID(bytes=block[32:48]))
        block_log, _, _, self._per_block_log, self._ag_log = struct.unpack_from(">5B", block, 120)
        directory_log = block[192]
        features2, incompatible = struct.unpack_from(">I12xI", block, 200)
        self.version = version & 15
        if self.version not in (4, 5) or self.block_size != 1 << block_log:
            raise ValueError("the XFS superblock is broken, or of a version that is not read")
        if not (9 <= block_log <= 16 and 256 <= self._inode_size <= 4096 and directory_log <= 7):
            raise ValueError("the XFS superblock is broken")
        if per_block != 1 << self._per_block_log or self._ag_log > 31 or not self._ag_blocks:
            raise ValueError("the XFS superblock is broken")
        if self.version == 5 and incompatible & NEEDS_REPAIR:
            raise ValueError("the XFS file system needs a repair (run xfs_repair on the image)")
        if self.version == 5 and incompatible & ~UNDERSTOOD:
            raise ValueError(f"the XFS file system has unknown features ({incompatible:#x})")
        self._directory_block = self.block_size << directory_log
        with_types = incompatible & FTYPE if self.version == 5 else features2 & VERSION_4_FTYPE
        self._type_bytes = 1 if with_types else 0
        self._check_log(block)

    def roots(self) -> list[FileSystem]:
        """Return itself."""
        return [self]

    def subvolume(self, options: dict[str, str]) -> FileSystem:
        """Return itself: XFS has no subvolumes."""
        return self

    def _check_log(self, block: bytes) -> None:
        """Check that the newest record of the log says "unmounted"."""
        (start,) = struct.unpack_from(">Q", block, 48)
        (count,) = struct.unpack_from(">I", block, 96)
        if not start:
            raise ValueError("the XFS file system keeps its log on another device")
        newest, flags = -1, UNMOUNTED
        at, end = self._position(start), count * self.block_size
        for chunk_at in range(0, end, PIECE):
            chunk = self._part.read_at(at + chunk_at, min(PIECE, end - chunk_at))
            for sector in range(0, len(chunk), 512):
                if chunk[sector : sector + 4] != LOG_RECORD:
                    continue
                (number,) = struct.unpack_from(">Q", chunk, sector + 16)
                if number > newest:
                    newest = number
                    flags = self._first_operation(at, chunk_at + sector, end, chunk, sector)
        if not flags & UNMOUNTED:
            raise ValueError("the XFS file system was not unmounted (run xfs_repair on the image)")

    def _first_operation(self, log: int, record: int, end: int, chunk: bytes, sector: int) -> int:
        """Return the flags of a log record's first operation."""
        (version,) = struct.unpack_from(">I", chunk, sector + 8)
        (size,) = struct.unpack_from(">I", chunk, sector + 320)
        headers = max(1, -(-size // 32768)) if version & 2 else 1
        place = (record + headers * 512) % end  # the log is a ring
        return self._part.read_at(log + place, 12)[9]

    # -- inodes -----------------------------------------------------------------------------

    def inode(self, number: int) -> Inode:
        """Return an inode.

        :raises ValueError: there is none of this number
        """
        bits = self._per_block_log
        block, index = number >> bits, number & ((1 << bits) - 1)
        at = self._position(block) + index * self._inode_size
        raw = self._part.read_at(at, self._inode_size)
        magic, mode, version, kind = struct.unpack_from(">2sHBB", raw, 0)
        if magic != b"IN" or version not in (2, 3):
            raise ValueError(f"there is no inode {number}")
        uid, gid, links = struct.unpack_from(">III", raw, 8)
        (size,) = struct.unpack_from(">q", raw, 56)
        attribute_offset, attribute_kind = raw[82] * 8, raw[83]
        (flags,) = struct.unpack_from(">H", raw, 90)
        (flags2,) = struct.unpack_from(">Q", raw, 120) if version == 3 else (0,)
        if flags & FLAG_REALTIME and stat.S_ISREG(mode):
            raise ValueError("the XFS file system has files on a realtime device")
        core = 176 if version == 3 else 100
        split = core + attribute_offset if attribute_offset else len(raw)
        if split > len(raw) or size < 0:
            raise ValueError(f"inode {number} is broken")
        if flags2 & FLAG2_NREXT64:
            (extents,), (attributes,) = (
                struct.unpack_from(">Q", raw, 24),
                struct.unpack_from(">I", raw, 76),
            )
        else:
            extents, attributes = struct.unpack_from(">IH", raw, 76)
        xattrs: dict[str, bytes] = {}
        if attribute_offset:
            fork = Fork(attribute_kind, raw[split:], attributes)
            xattrs = xfs_attributes.read(self, fork)
        return Inode(
            number, mode, uid, gid, size, _seconds(raw, flags2), links, xattrs,
            Fork(kind, raw[core:split], extents),
        )  # fmt: skip

    # -- content ----------------------------------------------------------------------------

    def content(self, inode: Inode) -> Iterator[bytes]:
        """Return a file's content in pieces; holes are zeros."""
        if inode.data.format == LOCAL:
            yield inode.data.raw[: inode.size]
            return
        runs = (
            (logical * self.block_size, self._pieces(count, physical))
            for logical, count, physical in self.runs(inode.data)
        )
        yield from files.assembled(runs, inode.size)

    def symlink(self, inode: Inode) -> bytes:
        """Return a symbolic link's target."""
        if inode.size > files.MAX_SYMLINK:
            raise ValueError(f"the symbolic link {inode.number} is too long")
        if self.version == 4 or inode.data.format == LOCAL:
            return b"".join(self.content(inode))
        # each block says how much of the target is in it
        pieces = (self.blocks(physical, count) for _, count, physical in self.runs(inode.data))
        return unwrapped(pieces, b"XSLM", inode.size, self.block_size)

    def entries(self, inode: Inode) -> list[tuple[bytes, int]]:
        """Return a directory's names and inode numbers, without ``.`` and ``..``."""
        if inode.data.format == LOCAL:
            return self._short_entries(inode.data.raw)
        if inode.size > MAX_DIRECTORY:
            raise ValueError(f"the directory {inode.number} is too large")
        found: list[tuple[bytes, int]] = []
        waiting: dict[int, bytes] = {}
        per_directory_block = self._directory_block // self.block_size
        for logical, count, physical in self.runs(inode.data):
            if logical * self.block_size >= LEAF_OFFSET:
                break
            for index in range(count):
                if physical is None:
                    raise ValueError(f"the directory {inode.number} is broken")
                # a directory block may lie in several runs
                which = (logical + index) // per_directory_block
                data = waiting.pop(which, b"") + self.blocks(physical + index, 1)
                if len(data) < self._directory_block:
                    waiting[which] = data
                else:
                    found += self._block_entries(data)
        return [(name, number) for name, number in found if name not in (b".", b"..")]

    def _short_entries(self, raw: bytes) -> list[tuple[bytes, int]]:
        if len(raw) < 6:
            raise ValueError("a directory is broken")
        count, wide = raw[0], raw[1]
        number_bytes = 8 if wide else 4
        at, found = 2 + number_bytes, []
        for _ in range(count):
            length = raw[at] if at < len(raw) else 0
            name_at = at + 3
            number_at = name_at + length + self._type_bytes
            if not length or number_at + number_bytes > len(raw):
                raise ValueError("a directory is broken")
            number = int.from_bytes(raw[number_at : number_at + number_bytes], "big")
            found.append((raw[name_at : name_at + length], number))
            at = number_at + number_bytes
        return found

    def _block_entries(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        magic = data[:4]
        if magic not in DIRECTORY_MAGICS:
            raise ValueError("a directory is broken")
        at, end = 64 if magic.endswith(b"3") else 16, len(data)
        if magic in WITH_TAIL:
            end -= 8 + 8 * int.from_bytes(data[-8:-4], "big")
        while at + 12 <= end:
            if data[at : at + 2] == b"\xff\xff":  # unused
                (step,) = struct.unpack_from(">H", data, at + 2)
                if step < 8:
                    raise ValueError("a directory is broken")
                at += step
                continue
            number, length = struct.unpack_from(">QB", data, at)
            if not length or at + 9 + length > end:
                raise ValueError("a directory is broken")
            yield data[at + 9 : at + 9 + length], number
            at += (9 + length + self._type_bytes + 2 + 7) & ~7

    # -- blocks -----------------------------------------------------------------------------

    def runs(self, fork: Fork) -> Iterator[Run]:
        """Return the runs of blocks of a fork, in order."""
        if fork.format == EXTENTS:
            yield from _records(fork.raw, fork.extents)
        elif fork.format == BTREE:
            level, count = struct.unpack_from(">HH", fork.raw, 0)
            most = (len(fork.raw) - 4) // 16
            yield from self._below(fork.raw, 4 + most * 8, count, most, level)
        else:
            raise ValueError("an inode has a fork of an unknown kind")

    def _below(self, raw: bytes, at: int, count: int, most: int, level: int) -> Iterator[Run]:
        if count > most or not 0 < level <= MAX_DEPTH:
            raise ValueError("an extent tree is broken")
        for (pointer,) in struct.iter_unpack(">Q", raw[at : at + count * 8]):
            block = self.blocks(pointer, 1)
            magic, below, entries = struct.unpack_from(">4sHH", block, 0)
            header = {b"BMAP": 24, b"BMA3": 72}.get(magic)
            if header is None or below != level - 1:
                raise ValueError("an extent tree is broken")
            if below:
                inner = (len(block) - header) // 16
                yield from self._below(block, header + inner * 8, entries, inner, below)
            else:
                yield from _records(block[header:], entries)

    def blocks(self, physical: int | None, count: int) -> bytes:
        """Return the bytes of some blocks that hold structures of the file system."""
        if physical is None or count > 256:
            raise ValueError("a structure of the file system is broken")
        return self._part.read_at(self._position(physical), count * self.block_size)

    def _pieces(self, count: int, physical: int | None) -> Iterator[bytes]:
        length = count * self.block_size
        if physical is None:
            yield from files.zeros(length)
            return
        start = self._position(physical)
        for at in range(0, length, PIECE):
            yield self._part.read_at(start + at, min(PIECE, length - at))

    def _position(self, block: int) -> int:
        """Return where a block is; its number has the allocation group in its upper bits."""
        group, within = block >> self._ag_log, block & ((1 << self._ag_log) - 1)
        if group >= self._ags or within >= self._ag_blocks:
            raise ValueError(f"there is no block {block}")
        return (group * self._ag_blocks + within) * self.block_size


def _records(raw: bytes, count: int) -> Iterator[Run]:
    if count * 16 > len(raw):
        raise ValueError("an extent list is broken")
    for high, low in struct.iter_unpack(">QQ", raw[: count * 16]):
        logical = (high >> 9) & ((1 << 54) - 1)
        physical = (high & 511) << 43 | low >> 21
        unwritten = high >> 63
        yield logical, low & ((1 << 21) - 1), None if unwritten else physical


def _seconds(raw: bytes, flags2: int) -> int:
    if flags2 & FLAG2_BIGTIME:
        return int(struct.unpack_from(">Q", raw, 40)[0] // 1_000_000_000 - BIGTIME_EPOCH)
    return int(struct.unpack_from(">i", raw, 40)[0])
