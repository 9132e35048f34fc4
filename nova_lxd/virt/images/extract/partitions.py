# SPDX-License-Identifier: Apache-2.0
"""Partition tables: GPT and MBR, primary and logical partitions."""

from __future__ import annotations

import struct
import uuid

from nova_lxd.virt.images.extract.blocks import Blocks, Part

SECTOR = 512
MBR_SIGNATURE = b"\x55\xaa"
GPT_SIGNATURE = b"EFI PART"
MAX_ENTRIES = 256
ENTRY_SIZES = range(128, 4097)
EXTENDED = (0x05, 0x0F, 0x85)  # kinds of the partition that holds the logical ones
MAX_LOGICAL = 60
FIRST_LOGICAL = 5

# What else may be found, to name it: (offset, magic, name)
OTHER_CONTENT = (
    (0x218, b"LVM2 001", "LVM"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (3, b"NTFS    ", "NTFS"),
)


def parts(disk: Blocks) -> list[Part]:
    """Return the partitions; a disk without a table is one partition."""
    whole = [Part(disk, 0, disk.size)]
    if disk.size < 2 * SECTOR:
        return whole
    if disk.read_at(SECTOR, 8) == GPT_SIGNATURE:
        return _gpt(disk)
    first = disk.read_at(0, SECTOR)
    if first[510:512] != MBR_SIGNATURE:
        return whole
    return _mbr(disk, first) or whole


def other_content(part: Part) -> str | None:
    """Return the name of what a partition holds, when it is known but not read here."""
    for offset, magic, name in OTHER_CONTENT:
        inside = offset + len(magic) <= part.size
        if inside and part.read_at(offset, len(magic)) == magic:
            return name
    return None


def _gpt(disk: Blocks) -> list[Part]:
    header = disk.read_at(SECTOR, SECTOR)
    table, count, size = struct.unpack_from("<QII", header, 72)
    if count > MAX_ENTRIES or size not in ENTRY_SIZES:
        raise ValueError("its partition table (GPT) is broken")
    found = []
    for index in range(count):
        entry = disk.read_at(table * SECTOR + index * size, 48)
        first, last = struct.unpack_from("<QQ", entry, 32)
        if entry[:16] != bytes(16) and first <= last:
            name = str(uuid.UUID(bytes_le=entry[16:32]))
            length = (last - first + 1) * SECTOR
            found += _inside(disk, first * SECTOR, length, index + 1, name)
    return found


def _mbr(disk: Blocks, sector: bytes) -> list[Part]:
    found = []
    (signature,) = struct.unpack_from("<I", sector, 440)
    for index, (kind, start, count) in enumerate(_entries(sector)):
        if kind in EXTENDED:
            found += _logical(disk, start, signature)
        elif kind and count:
            found += _inside_mbr(disk, start, count, index + 1, signature)
    return found


def _logical(disk: Blocks, extended: int, signature: int) -> list[Part]:
    """Return the logical partitions: a chain of tables, with one partition in each."""
    found: list[Part] = []
    table = extended
    for number in range(FIRST_LOGICAL, FIRST_LOGICAL + MAX_LOGICAL):
        if (table + 1) * SECTOR > disk.size:
            break
        sector = disk.read_at(table * SECTOR, SECTOR)
        if sector[510:512] != MBR_SIGNATURE:
            break
        (kind, start, count), (_, following, _), *_rest = _entries(sector)
        if kind and count:
            found += _inside_mbr(disk, table + start, count, number, signature)
        if not following:
            break
        table = extended + following
    return found


def _entries(sector: bytes) -> list[tuple[int, int, int]]:
    """Return a table's four entries: (kind, first sector, sectors)."""
    return [
        (sector[at + 4], *struct.unpack_from("<II", sector, at + 8))
        for at in range(446, 510, 16)
    ]


def _inside_mbr(disk: Blocks, start: int, count: int, number: int, signature: int) -> list[Part]:
    name = f"{signature:08x}-{number:02x}"
    return _inside(disk, start * SECTOR, count * SECTOR, number, name)


def _inside(disk: Blocks, start: int, size: int, number: int, name: str) -> list[Part]:
    """Return the partition when it lies within the disk."""
    return [Part(disk, start, size, number, name)] if start + size <= disk.size else []
