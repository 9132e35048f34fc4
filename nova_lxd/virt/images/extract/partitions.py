# SPDX-License-Identifier: Apache-2.0
"""Partition tables: GPT and MBR's four primary partitions."""

from __future__ import annotations

import struct
import uuid

from nova_lxd.virt.images.extract.blocks import Blocks, Part

SECTOR = 512
MBR_SIGNATURE = b"\x55\xaa"
GPT_SIGNATURE = b"EFI PART"
MAX_ENTRIES = 256
ENTRY_SIZES = range(128, 4097)

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
    for index in range(4):
        kind = sector[446 + index * 16 + 4]
        start, count = struct.unpack_from("<II", sector, 446 + index * 16 + 8)
        if kind and count:
            name = f"{signature:08x}-{index + 1:02x}"
            found += _inside(disk, start * SECTOR, count * SECTOR, index + 1, name)
    return found


def _inside(disk: Blocks, start: int, size: int, number: int, name: str) -> list[Part]:
    """Return the partition when it lies within the disk."""
    return [Part(disk, start, size, number, name)] if start + size <= disk.size else []
