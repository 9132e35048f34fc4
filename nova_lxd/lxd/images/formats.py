# SPDX-License-Identifier: Apache-2.0
"""File formats of images, told by their first bytes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest

#: How many bytes of a file :func:`detect` looks at.
MAGIC_LENGTH = 263


class Format(Enum):
    """A format of a metadata or root file, with the file name suffix that LXD gives to it."""

    TAR = ".tar"
    GZIP = ".tar.gz"
    BZIP2 = ".tar.bz2"
    XZ = ".tar.xz"
    LZMA = ".tar.lzma"
    ZSTD = ".tar.zst"
    SQUASHFS = ".squashfs"
    QCOW2 = ".qcow2"

    @property
    def suffix(self) -> str:
        return self.value


_MAGICS: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"\x1f\x8b", Format.GZIP),
    (0, b"BZh", Format.BZIP2),
    (0, b"\xfd7zXZ\x00", Format.XZ),
    (0, b"\x5d\x00\x00", Format.LZMA),
    (0, b"\x28\xb5\x2f\xfd", Format.ZSTD),
    (0, b"hsqs", Format.SQUASHFS),
    (0, b"QFI\xfb", Format.QCOW2),
    (257, b"ustar", Format.TAR),
)


def identify(head: bytes) -> Format | None:
    """The format of a file that begins with ``head``, None when it is none of ours."""
    for offset, magic, found in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return found
    return None


def detect(path: Path) -> Format:
    """The format of a file.

    :raises BadRequest: none that an image can have.
    """
    with path.open("rb") as file:
        found = identify(file.read(MAGIC_LENGTH))
    if found is None:
        raise BadRequest("Unsupported compression")
    return found
