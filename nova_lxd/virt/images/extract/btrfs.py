# SPDX-License-Identifier: Apache-2.0
"""btrfs on one device, read-only. Layout: "On-disk Format", btrfs documentation."""

from __future__ import annotations

import bisect
import collections
import dataclasses
import struct
import uuid
from collections.abc import Iterator

from nova_lxd.virt.images.extract import files
from nova_lxd.virt.images.extract.blocks import Part
from nova_lxd.virt.images.extract.packed import unpack

SUPERBLOCK = 0x10000
MAGIC = b"_BHRfS_M"
HEADER = 101  # bytes of a node's header
MAX_LEVEL = 7
CACHED_NODES = 256
MAX_EXTENT = 1 << 20  # bytes of a compressed extent; btrfs makes them of 128 KiB
PIECE = 1 << 20

ROOT_TREE_DIRECTORY = 6
TOP_LEVEL = 5  # the subvolume that holds all others
FIRST_FREE = 256  # number of a subvolume's own directory, and of its first subvolume
INODE_ITEM, XATTR_ITEM, DIR_ITEM, DIR_INDEX, EXTENT_DATA = 1, 24, 84, 96, 108
ROOT_ITEM, ROOT_BACKREF, CHUNK_ITEM = 132, 144, 228
INLINE, REGULAR = 0, 1  # kinds of extents; what is neither was never written

# Incompatible features: those not named here are refused.
UNDERSTOOD = 0x77F | 0x10000
STRIPED = 0x8 | 0x40 | 0x80 | 0x100

Key = tuple[int, int, int]
Number = tuple[int, int]  # of a subvolume, and of an inode in it


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a tree.

    :param keys: the first key below each child, or each item's own
    :param places: (logical address, 0) of each child, or (offset, length) of each item in ``raw``
    """

    level: int
    keys: list[Key]
    places: list[tuple[int, int]]
    raw: bytes


def is_here(part: Part) -> bool:
    """Tell whether a partition holds btrfs."""
    return part.size > SUPERBLOCK + 4096 and part.read_at(SUPERBLOCK + 0x40, 8) == MAGIC


class _Device:
    """The trees of a file system, below all subvolumes."""

    def __init__(self, part: Part) -> None:
        self._part = part
        block = part.read_at(SUPERBLOCK, 4096)
        self.uuid = str(uuid.UUID(bytes=block[0x20:0x30]))
        self.label = block[0x12B:0x22B].split(b"\0")[0].decode(errors="replace")
        root, chunks, log = struct.unpack_from("<QQQ", block, 0x50)
        (devices,) = struct.unpack_from("<Q", block, 0x88)
        self.sector_size, self.node_size = struct.unpack_from("<II", block, 0x90)
        (array_size,) = struct.unpack_from("<I", block, 0xA0)
        (features,) = struct.unpack_from("<Q", block, 0xBC)
        if features & ~UNDERSTOOD:
            raise ValueError(f"the btrfs file system has unknown features ({features:#x})")
        if devices != 1:
            raise ValueError(f"the btrfs file system lies on {devices} devices")
        if log:
            raise ValueError("the btrfs file system was not unmounted (mount the image once)")
        if not 4096 <= self.node_size <= 65536 or array_size > 2048:
            raise ValueError("the btrfs superblock is broken")
        self._nodes: collections.OrderedDict[int, Node] = collections.OrderedDict()
        # logical start → (length, physical start)
        self._chunks: dict[int, tuple[int, int]] = {}
        self._starts: list[int] = []
        self._boot_chunks(block[0x32B : 0x32B + array_size])
        for key, data in self.scan(chunks, (0, CHUNK_ITEM, 0), (2**64 - 1, CHUNK_ITEM, 2**64 - 1)):
            if key[1] == CHUNK_ITEM:
                self._add_chunk(key[2], data)
        self.root = root

    def _boot_chunks(self, array: bytes) -> None:
        at = 0
        while at + 17 + 80 <= len(array):
            (logical,) = struct.unpack_from("<Q", array, at + 9)
            self._add_chunk(logical, array[at + 17 :])
            (stripes,) = struct.unpack_from("<H", array, at + 17 + 44)
            at += 17 + 48 + 32 * stripes

    def _add_chunk(self, logical: int, item: bytes) -> None:
        length, _, _, kind = struct.unpack_from("<QQQQ", item, 0)
        (physical,) = struct.unpack_from("<Q", item, 48 + 8)  # the first copy
        if kind & STRIPED:
            raise ValueError("the btrfs file system is striped")
        if logical not in self._chunks:
            bisect.insort(self._starts, logical)
        self._chunks[logical] = length, physical

    def read(self, logical: int, length: int) -> bytes:
        """Return bytes of the address space that all extents are in."""
        index = bisect.bisect_right(self._starts, logical) - 1
        if index >= 0:
            start = self._starts[index]
            size, physical = self._chunks[start]
            if logical + length <= start + size:
                return self._part.read_at(physical + logical - start, length)
        raise ValueError(f"the btrfs file system has nothing at {logical}")

    def scan(
        self, root: int, low: Key, high: Key, level: int = MAX_LEVEL + 1
    ) -> Iterator[tuple[Key, bytes]]:
        """Return a tree's items between two keys, both included, in order."""
        node = self._node(root)
        if node.level >= level:  # each step goes down: a ring of nodes has an end
            raise ValueError("a btrfs tree is broken")
        start = bisect.bisect_left(node.keys, low)
        if node.level:
            start = bisect.bisect_right(node.keys, low) - 1
        for index in range(max(0, start), len(node.keys)):
            if node.keys[index] > high:
                return
            first, length = node.places[index]
            if node.level:
                yield from self.scan(first, low, high, node.level)
            else:
                yield node.keys[index], node.raw[first : first + length]

    def _node(self, logical: int) -> Node:
        node = self._nodes.get(logical)
        if node is None:
            node = self._nodes[logical] = self._parse(logical)
            if len(self._nodes) > CACHED_NODES:
                self._nodes.popitem(last=False)
        else:
            self._nodes.move_to_end(logical)
        return node

    def _parse(self, logical: int) -> Node:
        raw = self.read(logical, self.node_size)
        (address,) = struct.unpack_from("<Q", raw, 48)
        count, level = struct.unpack_from("<IB", raw, 96)
        size = 33 if level else 25
        if address != logical or level > MAX_LEVEL or HEADER + count * size > len(raw):
            raise ValueError("a btrfs tree is broken")
        entries = struct.iter_unpack("<QBQQQ" if level else "<QBQII", raw[HEADER:][: count * size])
        keys, places = [], []
        for number, kind, offset, first, second in entries:
            keys.append((number, kind, offset))
            places.append((first, 0) if level else (HEADER + first, second))
        if not level and any(at + length > len(raw) for at, length in places):
            raise ValueError("a btrfs tree is broken")
        return Node(level, keys, places, b"" if level else raw)


class FileSystem:
    """A btrfs file system, seen from one of its subvolumes.

    :raises ValueError: it is broken, was not unmounted, or uses what is not read here
    """

    def __init__(self, part: Part | None, device: _Device | None = None, top: int = 0) -> None:
        self._device = device or _Device(part)  # type: ignore[arg-type]
        self.uuid, self.label = self._device.uuid, self._device.label
        self._trees: dict[int, int] = {}
        self.root: Number = (top or self._default(), FIRST_FREE)

    # -- subvolumes -------------------------------------------------------------------------

    def roots(self) -> list[FileSystem]:
        """Return the default subvolume, then every other in the order in which they were made."""
        low, high = (FIRST_FREE, ROOT_ITEM, 0), (2**63, ROOT_ITEM, 2**64 - 1)
        found = {key[0] for key, _ in self._device.scan(self._device.root, low, high)
                 if key[1] == ROOT_ITEM}  # fmt: skip
        others = sorted({TOP_LEVEL, *found} - {self.root[0]})
        return [self, *(FileSystem(None, self._device, number) for number in others)]

    def subvolume(self, options: dict[str, str]) -> FileSystem:
        """Return the subvolume that a mount with these options shows."""
        if "subvolid" in options:
            return FileSystem(None, self._device, int(options["subvolid"]) or TOP_LEVEL)
        if "subvol" not in options:
            return FileSystem(None, self._device)
        top = FileSystem(None, self._device, TOP_LEVEL)
        number: Number = top.root
        for name in filter(None, options["subvol"].encode().split(b"/")):
            children = dict(top.entries(top.inode(number)))
            if name not in children:
                raise ValueError(f"there is no btrfs subvolume '{options['subvol']}'")
            number = children[name]
        if number[1] != FIRST_FREE:
            raise ValueError(f"'{options['subvol']}' is no btrfs subvolume")
        return FileSystem(None, self._device, number[0])

    def _default(self) -> int:
        low = (ROOT_TREE_DIRECTORY, DIR_ITEM, 0)
        high = (ROOT_TREE_DIRECTORY, DIR_ITEM, 2**64 - 1)
        for _, data in self._device.scan(self._device.root, low, high):
            for location, name, _ in _named(data):
                if name == b"default":
                    return location[0]
        return TOP_LEVEL

    def _tree(self, subvolume: int) -> int:
        """Return the logical address of a subvolume's root node."""
        if subvolume not in self._trees:
            low, high = (subvolume, ROOT_ITEM, 0), (subvolume, ROOT_ITEM, 2**64 - 1)
            items = [data for _, data in self._device.scan(self._device.root, low, high)]
            if not items:
                raise ValueError(f"there is no btrfs subvolume {subvolume}")
            (self._trees[subvolume],) = struct.unpack_from("<Q", items[-1], 176)
        return self._trees[subvolume]

    def _items(self, number: Number, kind: int) -> Iterator[tuple[int, bytes]]:
        """Return the items of one kind of an inode: (offset of the key, data)."""
        subvolume, inode = number
        low, high = (inode, kind, 0), (inode, kind, 2**64 - 1)
        for key, data in self._device.scan(self._tree(subvolume), low, high):
            yield key[2], data

    # -- files ------------------------------------------------------------------------------

    def inode(self, number: Number) -> files.Inode:
        """Return an inode.

        :raises ValueError: there is none of this number
        """
        for _, item in self._items(number, INODE_ITEM):
            (size,) = struct.unpack_from("<Q", item, 16)
            links, uid, gid, mode = struct.unpack_from("<4I", item, 40)
            (mtime,) = struct.unpack_from("<q", item, 136)
            xattrs = {
                name.decode(errors="surrogateescape"): value
                for _, data in self._items(number, XATTR_ITEM)
                for _, name, value in _named(data)
            }
            return files.Inode(number, mode, uid, gid, size, mtime, links, xattrs)
        raise ValueError(f"there is no inode {number[1]} in btrfs subvolume {number[0]}")

    def entries(self, inode: files.Inode) -> list[tuple[bytes, Number]]:
        """Return a directory's names and inode numbers."""
        subvolume = inode.number[0]
        found = []
        for _, data in self._items(inode.number, DIR_INDEX):
            for location, name, _ in _named(data):
                if location[1] == INODE_ITEM:
                    found.append((name, (subvolume, location[0])))
                elif self._is_below(location[0], subvolume):
                    found.append((name, (location[0], FIRST_FREE)))
        return found

    def _is_below(self, child: int, parent: int) -> bool:
        """Tell whether a subvolume is in another; a snapshot has only the name of such a one."""
        key = (child, ROOT_BACKREF, parent)
        return any(True for _ in self._device.scan(self._device.root, key, key))

    def symlink(self, inode: files.Inode) -> bytes:
        """Return a symbolic link's target."""
        if inode.size > files.MAX_SYMLINK:
            raise ValueError(f"the symbolic link {inode.number} is too long")
        return b"".join(self.content(inode))

    def content(self, inode: files.Inode) -> Iterator[bytes]:
        """Return a file's content in pieces; holes are zeros."""
        runs = (
            (offset, self._extent(data)) for offset, data in self._items(inode.number, EXTENT_DATA)
        )
        yield from files.assembled(runs, inode.size)

    def _extent(self, item: bytes) -> Iterator[bytes]:
        (whole,) = struct.unpack_from("<Q", item, 8)  # bytes when unpacked
        packing, encryption, _, kind = struct.unpack_from("<BBHB", item, 16)
        if encryption:
            raise ValueError("the btrfs file system has encrypted files")
        if packing and whole > MAX_EXTENT:
            raise ValueError("an extent of the btrfs file system is broken")
        if kind == INLINE:
            data = item[21:]
            yield unpack(packing, data, whole, self._device.sector_size) if packing else data
            return
        start, length, offset, count = struct.unpack_from("<4Q", item, 21)
        if not start or kind != REGULAR:
            yield from files.zeros(count)
        elif packing:
            if length > MAX_EXTENT:
                raise ValueError("an extent of the btrfs file system is broken")
            packed = self._device.read(start, length)
            data = unpack(packing, packed, whole, self._device.sector_size)
            yield data[offset : offset + count]
        else:
            for at in range(0, count, PIECE):
                yield self._device.read(start + offset + at, min(PIECE, count - at))


def _named(data: bytes) -> Iterator[tuple[Key, bytes, bytes]]:
    """Return the entries of a directory or attribute item: (location, name, value)."""
    at = 0
    while at + 30 <= len(data):
        location = struct.unpack_from("<QBQ", data, at)
        value_length, name_length = struct.unpack_from("<HH", data, at + 25)
        end = at + 30 + name_length + value_length
        if end > len(data):
            raise ValueError("a directory or an attribute of the btrfs file system is broken")
        name = data[at + 30 : at + 30 + name_length]
        yield location, name, data[at + 30 + name_length : end]
        at = end
