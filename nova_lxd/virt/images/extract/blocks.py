# SPDX-License-Identifier: Apache-2.0
"""Disk images as arrays of bytes: raw and qcow2, read-only."""

from __future__ import annotations

import collections
import os
import struct
import zlib
from typing import BinaryIO, Protocol

QCOW2_MAGIC = b"QFI\xfb"
OFFSET_MASK = 0x00FFFFFFFFFFFE00
COMPRESSED = 1 << 62
ALL_ZERO = 1

CORRUPT, EXTERNAL_DATA, COMPRESSION, EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 3, 1 << 4
REFUSED = {
    CORRUPT: "is marked as corrupt",
    EXTERNAL_DATA: "keeps its data in another file",
    COMPRESSION: "is not compressed with zlib",
    EXTENDED_L2: "has extended L2 entries",
}
CACHED = 64  # tables and unpacked clusters kept


class Blocks(Protocol):
    """A disk's content."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``.

        :raises ValueError: they are not all there
        """


class Raw:
    """A raw disk image."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.size = source.seek(0, os.SEEK_END)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:  # far beyond what seek() takes, too
            raise ValueError(f"the image ends before byte {offset + length}")
        self._source.seek(offset)
        data = self._source.read(length)
        if len(data) != length:
            raise ValueError(f"the image ends before byte {offset + length}")
        return data


class Part:
    """A range of a disk, as a disk.

    :param number: the partition's in its table, 0 for a whole disk
    :param uuid: what PARTUUID= names it by
    """

    def __init__(
        self, whole: Blocks, start: int, size: int, number: int = 0, uuid: str = ""
    ) -> None:
        self._whole = whole
        self._start = start
        self.size = size
        self.number = number
        self.uuid = uuid

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise ValueError(f"byte {offset} + {length} lies outside its partition")
        return self._whole.read_at(self._start + offset, length)


class Qcow2:
    """A qcow2 image of version 2 or 3 that stands alone; zlib-compressed clusters included.

    :raises ValueError: it refers to other files, or uses what is not read here
    """

    def __init__(self, source: BinaryIO) -> None:
        self._file = Raw(source)
        header = self._file.read_at(0, 104)
        version, backing, _, bits, size, crypt, l1_size, l1_offset = struct.unpack_from(
            ">IQIIQIIQ", header, 4
        )
        if version not in (2, 3):
            raise ValueError(f"qcow2 of version {version} is not read")
        if backing:
            raise ValueError("the qcow2 image refers to a backing file")
        if crypt:
            raise ValueError("the qcow2 image is encrypted")
        if not 9 <= bits <= 21:
            raise ValueError(f"the qcow2 image has clusters of 2^{bits} bytes")
        features = struct.unpack_from(">Q", header, 72)[0] if version == 3 else 0
        for bit, text in REFUSED.items():
            if features & bit:
                raise ValueError(f"the qcow2 image {text}")
        self.size = size
        self._bits = bits
        self._cluster = 1 << bits
        self._per_table = self._cluster // 8
        needed = -(-size // (self._cluster * self._per_table))
        if l1_size < needed or needed > 1 << 22:
            raise ValueError("the qcow2 image's first table does not fit its size")
        self._l1 = struct.unpack(f">{needed}Q", self._file.read_at(l1_offset, needed * 8))
        self._tables: collections.OrderedDict[int, tuple[int, ...]] = collections.OrderedDict()
        self._unpacked: collections.OrderedDict[int, bytes] = collections.OrderedDict()

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise ValueError(f"byte {offset} + {length} lies outside the disk")
        pieces = []
        while length:
            within = offset & (self._cluster - 1)
            count = min(length, self._cluster - within)
            pieces.append(self._read_in_cluster(offset >> self._bits, within, count))
            offset += count
            length -= count
        return b"".join(pieces)

    def _read_in_cluster(self, index: int, within: int, count: int) -> bytes:
        entry = self._entry(index)
        if entry & COMPRESSED:
            return self._decompress(entry)[within : within + count]
        host = entry & OFFSET_MASK
        if entry & ALL_ZERO or not host:
            return bytes(count)
        if host + within + count > self._file.size:
            # the last cluster may be cut off in the file
            there = max(0, self._file.size - host - within)
            return self._file.read_at(host + within, there) + bytes(count - there)
        return self._file.read_at(host + within, count)

    def _entry(self, index: int) -> int:
        first, second = divmod(index, self._per_table)
        table = self._l1[first] & OFFSET_MASK
        if not table:
            return 0
        entries = self._tables.get(table)
        if entries is None:
            raw = self._file.read_at(table, self._cluster)
            entries = struct.unpack(f">{self._per_table}Q", raw)
            _remember(self._tables, table, entries)
        return entries[second]

    def _decompress(self, entry: int) -> bytes:
        data = self._unpacked.get(entry)
        if data is None:
            shift = 62 - (self._bits - 8)
            host = entry & ((1 << shift) - 1)
            sectors = ((entry & (COMPRESSED - 1)) >> shift) + 1
            length = min(sectors * 512 - (host & 511), self._file.size - host)
            packed = self._file.read_at(host, length)
            try:
                data = zlib.decompressobj(-12).decompress(packed, self._cluster)
            except zlib.error as e:
                raise ValueError(f"a compressed cluster is broken: {e}")
            if len(data) != self._cluster:
                raise ValueError("a compressed cluster is too short")
            _remember(self._unpacked, entry, data)
        return data


def _remember(cache: collections.OrderedDict[int, object], key: int, value: object) -> None:
    cache[key] = value
    if len(cache) > CACHED:
        cache.popitem(last=False)


def open_disk(source: BinaryIO) -> Blocks:
    """Return the disk in a file: qcow2 by its magic, else raw."""
    source.seek(0)
    if source.read(4) == QCOW2_MAGIC:
        return Qcow2(source)
    return Raw(source)
