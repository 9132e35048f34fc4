# SPDX-License-Identifier: Apache-2.0
"""What XFS's two kinds of fork, data and attributes, have in common."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable

LOCAL, EXTENTS, BTREE = 1, 2, 3  # formats of a fork


@dataclasses.dataclass(frozen=True)
class Fork:
    """One of an inode's two lists of blocks, or its inline bytes."""

    format: int
    raw: bytes
    extents: int


def unwrapped(pieces: Iterable[bytes], magic: bytes, size: int, block_size: int) -> bytes:
    """Return a value that is kept in blocks with a header each (version 5).

    :raises ValueError: the blocks are broken, or hold less
    """
    found = b""
    for piece in pieces:
        for at in range(0, len(piece), block_size):
            if len(found) >= size:
                break
            if piece[at : at + 4] != magic:
                raise ValueError("a structure of the file system is broken")
            (length,) = struct.unpack_from(">I", piece, at + 8)
            found += piece[at + 56 : at + min(block_size, 56 + length)]
    if len(found) < size:
        raise ValueError("a structure of the file system is broken")
    return found[:size]
