# SPDX-License-Identifier: Apache-2.0
"""What every file system here offers, and what is kept of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

MAX_SYMLINK = 4096  # bytes of a symbolic link's target


@dataclasses.dataclass(frozen=True)
class Inode:
    """What is kept of a file but its content; each file system adds where that is.

    :param number: what its file system knows it by, and no other file of it
    """

    number: Any
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    xattrs: dict[str, bytes]


class FileSystem(Protocol):
    """A file system, read-only; every method raises ValueError where it is broken."""

    root: Any
    uuid: str
    label: str

    def roots(self) -> Iterable[FileSystem]:
        """Return the trees that may be a system's root: itself, or subvolumes."""

    def subvolume(self, options: dict[str, str]) -> FileSystem:
        """Return the tree that a mount with these options shows."""

    def inode(self, number: Any) -> Any:
        """Return an inode by its number."""

    def entries(self, inode: Any) -> list[tuple[bytes, Any]]:
        """Return a directory's names and inode numbers, without ``.`` and ``..``."""

    def content(self, inode: Any) -> Iterator[bytes]:
        """Return a file's content in pieces; holes are zeros."""

    def symlink(self, inode: Any) -> bytes:
        """Return a symbolic link's target."""


def zeros(length: int) -> Iterator[bytes]:
    """Return ``length`` zero bytes in pieces."""
    while length > 0:
        count = min(length, 1 << 20)
        yield bytes(count)
        length -= count


def assembled(runs: Iterable[tuple[int, Iterable[bytes]]], size: int) -> Iterator[bytes]:
    """Return a content of ``size`` bytes from runs of (offset, pieces) in order.

    :raises ValueError: the runs are not in order
    """
    done = 0
    for start, pieces in runs:
        if start < done:
            raise ValueError("the extents of a file are not in order")
        yield from zeros(min(start, size) - done)
        done = min(start, size)
        for piece in pieces:
            kept = piece[: size - done]
            done += len(kept)
            yield kept
            if done >= size:
                return
    yield from zeros(size - done)
