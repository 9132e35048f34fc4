# SPDX-License-Identifier: Apache-2.0
"""Names and small files out of a tar stream that nobody vouches for.

Python's tarfile reads a pax header of any size into memory; this reader needs no more than
:data:`MAX_HEADER` bytes whatever the stream says, and never looks back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from nova_lxd.lxd.errors import BadRequest

BLOCK = 512
#: The longest extended header that is read, in bytes.
MAX_HEADER = 1024 * 1024
_CHUNK = 256 * 1024


@dataclass
class Member:
    """One member; its content is read with :meth:`TarStream.read` before the next one."""

    name: str
    kind: bytes
    size: int

    @property
    def regular(self) -> bool:
        return self.kind in (b"0", b"\0", b"7")


def _damaged(why: str) -> BadRequest:
    return BadRequest(f"Reading the image failed: its tar archive is damaged: {why}")


def _number(field: bytes) -> int:
    """A number of a tar header: octal text or GNU's base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            raise _damaged("a size is negative")
        return value
    text = field.replace(b"\0", b" ").strip()
    try:
        return int(text or b"0", 8)
    except ValueError:
        raise _damaged("a size is no number") from None


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE\\n`` of an extended header."""
    records: dict[str, str] = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not (length.isdigit() and len(length) < 8 and len(length) < int(length) <= len(data)):
            raise _damaged("an extended header has a wrong length")
        record = data[len(length) + 1 : int(length)]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return records


class TarStream:
    """Iterate to get the members in order.

    :param limit: how many bytes of the stream may be passed over.
    :param seekable: the stream is a plain file, in which content can be jumped over.
    """

    def __init__(self, stream: BinaryIO, limit: int, *, seekable: bool = False) -> None:
        self._stream = stream
        self._seekable = seekable
        self._budget = limit
        self._left = 0  # content of the current member that was not read
        self._padding = 0

    def _take(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        parts = bytearray()
        while len(parts) < size:
            data = self._stream.read(size - len(parts))
            if not data:
                raise _damaged("it ends too early")
            parts += data
        self._budget -= size
        if self._budget < 0:
            raise BadRequest("Reading the image failed: it is too large once decompressed")
        return bytes(parts)

    def _skip(self, size: int) -> None:
        if self._seekable:
            self._stream.seek(size, os.SEEK_CUR)
            return
        while size:
            step = min(size, _CHUNK)
            self._take(step)
            size -= step

    def read(self, member: Member, limit: int) -> bytes:
        """The whole content of the current member.

        :raises BadRequest: it is longer than ``limit`` bytes.
        """
        if member.size > limit:
            raise BadRequest(
                f"Reading the image failed: {member.name[:64]!r} in it has {member.size} bytes, "
                f"more than {limit}"
            )
        data = self._take(self._left)
        self._left = 0
        return data

    def _extended(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise _damaged("an extended header is too long")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def __iter__(self) -> Iterator[Member]:
        pending: dict[str, str] = {}
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            header = self._take(BLOCK)
            if not header.strip(b"\0"):
                return
            self._check(header)
            size, kind = _number(header[124:136]), header[156:157]
            if kind in (b"x", b"L", b"K", b"g", b"X"):
                data = self._extended(size)
                if kind in (b"x", b"X"):
                    pending |= _pax(data)
                elif kind == b"L":
                    pending["path"] = _text(data)
                continue
            if kind == b"S":
                self._skip_sparse_map(header)
            yield self._member(header, kind, size, pending)
            pending = {}

    def _member(self, header: bytes, kind: bytes, size: int, pending: dict[str, str]) -> Member:
        name = _text(header[:100])
        if header[257:263] == b"ustar\0" and header[345]:
            name = f"{_text(header[345:500])}/{name}"
        name = pending.get("path", name)
        text = pending.get("size", "")
        if text:
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise _damaged("a size is no number")
            size = int(text)
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):  # links, devices, directories
            size = 0
        self._left, self._padding = size, -size % BLOCK
        return Member(name, kind, size)

    def _skip_sparse_map(self, header: bytes) -> None:
        more = header[482]
        while more:
            more = self._take(BLOCK)[504]

    @staticmethod
    def _check(header: bytes) -> None:
        wanted = _number(header[148:156])
        if sum(header[:148]) + 8 * 32 + sum(header[156:]) != wanted:
            raise _damaged("a header has a wrong checksum")
