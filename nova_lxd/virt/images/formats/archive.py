# SPDX-License-Identifier: Apache-2.0
"""Tar archives, plain or compressed: telling them and looking at their first members."""

from __future__ import annotations

import contextlib
import itertools
import lzma
import pathlib
import subprocess
import tarfile
import zlib
from collections.abc import Iterator

TAR_MAGIC = b"ustar"
TAR_MAGIC_AT = 257
HEAD = 512
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

COMPRESSIONS = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "xz",  # lzma
    ZSTD_MAGIC: "zst",
}


def is_archive(head: bytes) -> bool:
    """Tell whether a file that begins so may be a tar archive LXD can read."""
    if head[TAR_MAGIC_AT : TAR_MAGIC_AT + len(TAR_MAGIC)] == TAR_MAGIC:
        return True
    return any(head.startswith(magic) for magic in COMPRESSIONS)


@contextlib.contextmanager
def members(path: pathlib.Path, head: bytes) -> Iterator[Iterator[tarfile.TarInfo]]:
    """Read an archive's members as a stream, unpacking nothing.

    :raises ValueError: it is no tar archive, or a broken one
    """
    with contextlib.ExitStack() as stack:
        try:
            if head.startswith(ZSTD_MAGIC):
                child = subprocess.Popen(["zstd", "-dcq", "--", str(path)], stdout=subprocess.PIPE)
                stack.enter_context(child)
                stack.callback(child.kill)
                opened = tarfile.open(fileobj=child.stdout, mode="r|")  # noqa: SIM115
            else:
                opened = tarfile.open(path, mode="r|*")  # noqa: SIM115
            yield iter(stack.enter_context(opened))
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as e:
            raise ValueError(f"its archive cannot be read: {e}")


def first_names(path: pathlib.Path, head: bytes, count: int) -> list[str]:
    """Return the names of the first members."""
    with members(path, head) as stream:
        return [plain_name(member) for member in itertools.islice(stream, count)]


def check_whole(path: pathlib.Path, limit: int) -> set[str]:
    """Read an archive to its end; return the names at its top.

    A cut archive, or one that would unpack to far more than its size lets expect, is found here
    and not by the server half-way through unpacking.

    :param limit: bytes of file content at which it is refused
    :raises ValueError: it is broken or too large
    """
    with path.open("rb") as source:
        head = source.read(HEAD)
    tops = set()
    with members(path, head) as stream:
        for member in stream:
            tops.add(plain_name(member).split("/")[0])
            limit -= member.size
            if limit < 0:
                raise ValueError("its files are larger than [lxd]image_max_unpacked_gb")
    return tops


def plain_name(member: tarfile.TarInfo) -> str:
    """Return a member's path relative to the top."""
    return member.name.removeprefix("./")
