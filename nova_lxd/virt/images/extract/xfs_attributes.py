# SPDX-License-Identifier: Apache-2.0
"""Extended attributes of XFS: inline, in leaves, and in blocks of their own."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from nova_lxd.virt.images.extract.xfs_layout import EXTENTS, LOCAL, Fork, unwrapped

LOCAL_FLAG, ROOT_FLAG, SECURE_FLAG, PARENT_FLAG, INCOMPLETE_FLAG = 1, 2, 4, 8, 128
MAX_VALUE = 65536
# magic → (bytes of the header, where in it the number of entries is)
LEAVES = {0xFBEE: (32, 12), 0x3BEE: (80, 56)}
NODES = {0xFEBE: (16, 12), 0x3EBE: (64, 56)}


def read(system: Any, fork: Fork) -> dict[str, bytes]:
    """Return the attributes of an inode.

    :raises ValueError: they are broken
    """
    if fork.format == LOCAL:
        return dict(_short(fork.raw))
    if not fork.extents and fork.format == EXTENTS:
        return {}
    return dict(_Blocks(system, fork).all())


def _short(raw: bytes) -> Iterator[tuple[str, bytes]]:
    if len(raw) < 4:
        raise ValueError("extended attributes are broken")
    at = 4
    for _ in range(raw[2]):
        name_length, value_length, flags = struct.unpack_from(">BBB", raw.ljust(at + 3, b"\0"), at)
        end = at + 3 + name_length + value_length
        if end > len(raw):
            raise ValueError("extended attributes are broken")
        if not flags & PARENT_FLAG:
            yield _name(raw[at + 3 : at + 3 + name_length], flags), raw[end - value_length : end]
        at = end


class _Blocks:
    """The attributes of one inode that has blocks for them."""

    def __init__(self, system: Any, fork: Fork) -> None:
        self._system = system
        self._runs = list(system.runs(fork))

    def all(self) -> Iterator[tuple[str, bytes]]:
        """Return the attributes of every leaf, from the leftmost on."""
        number, seen = 0, set()
        block = self._block(0)
        while _kind(block) in NODES:
            header, _ = NODES[_kind(block)]
            (number,) = struct.unpack_from(">I", block, header + 4)
            if number in seen:
                raise ValueError("extended attributes are broken")
            seen.add(number)
            block = self._block(number)
        while True:
            yield from self._leaf(block)
            (number,) = struct.unpack_from(">I", block, 0)  # the next one to the right
            if not number:
                return
            if number in seen:
                raise ValueError("extended attributes are broken")
            seen.add(number)
            block = self._block(number)

    def _leaf(self, block: bytes) -> Iterator[tuple[str, bytes]]:
        if _kind(block) not in LEAVES:
            raise ValueError("extended attributes are broken")
        header, count_at = LEAVES[_kind(block)]
        (count,) = struct.unpack_from(">H", block, count_at)
        if header + count * 8 > len(block):
            raise ValueError("extended attributes are broken")
        for index in range(count):
            _, at, flags = struct.unpack_from(">IHB", block, header + index * 8)
            if flags & (INCOMPLETE_FLAG | PARENT_FLAG):
                continue
            if at + 9 > len(block):
                raise ValueError("extended attributes are broken")
            if flags & LOCAL_FLAG:
                length, name_length = struct.unpack_from(">HB", block, at)
                name_at = at + 3
                value = block[name_at + name_length : name_at + name_length + length]
            else:
                first, length, name_length = struct.unpack_from(">IIB", block, at)
                name_at = at + 9
                value = self._remote(first, length)
            if name_at + name_length > len(block) or len(value) != length:
                raise ValueError("extended attributes are broken")
            yield _name(block[name_at : name_at + name_length], flags), value

    def _remote(self, first: int, length: int) -> bytes:
        if length > MAX_VALUE:
            raise ValueError("an extended attribute is too long")
        size = self._system.block_size
        room = size - 56 if self._system.version == 5 else size
        pieces = (self._block(first + index) for index in range(-(-length // room)))
        if self._system.version == 5:
            return unwrapped(pieces, b"XARM", length, size)
        return b"".join(pieces)[:length]

    def _block(self, wanted: int) -> bytes:
        for logical, count, physical in self._runs:
            if logical <= wanted < logical + count and physical is not None:
                return self._system.blocks(physical + wanted - logical, 1)
        raise ValueError("extended attributes are broken")


def _kind(block: bytes) -> int:
    kind: int = struct.unpack_from(">H", block, 8)[0]
    return kind


def _name(raw: bytes, flags: int) -> str:
    space = "security." if flags & SECURE_FLAG else "trusted." if flags & ROOT_FLAG else "user."
    return space + raw.decode(errors="surrogateescape")
