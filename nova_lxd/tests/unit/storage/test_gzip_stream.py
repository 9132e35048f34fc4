# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import os
import random

import pytest

from nova_lxd.lxd.storage import gzip_stream
from nova_lxd.lxd.storage.gzip_stream import Deflate, GzipStream

_DEFLATES = {"best": None, "zlib": gzip_stream.deflate_zlib}


def _compress(data: bytes, deflate: Deflate | None, step: int = 1 << 20) -> bytes:
    with GzipStream(io.BytesIO(data), deflate) as stream:
        parts = []
        while part := stream.read(step):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("deflate", _DEFLATES.values(), ids=_DEFLATES)
@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1, 3_000_001])
def test_any_size_comes_back(size: int, deflate: Deflate | None) -> None:
    data = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    assert gzip.decompress(_compress(data, deflate)) == data


@pytest.mark.parametrize("deflate", _DEFLATES.values(), ids=_DEFLATES)
def test_blocks_know_what_came_before_them(deflate: Deflate | None) -> None:
    # What cannot be compressed by itself, repeated just within the window across a block's end.
    piece = os.urandom(16 << 10)
    data = bytes((256 << 10) - len(piece)) + piece + piece
    assert len(_compress(data, deflate)) < 1.5 * len(piece)


def test_the_same_input_gives_the_same_bytes_however_it_is_read() -> None:
    data = random.Random(1).randbytes(700_000)
    assert _compress(data, None, 1000) == _compress(data, None)


def test_no_more_than_some_blocks_are_read_ahead() -> None:
    class Source(io.RawIOBase):
        count = 0

        def read(self, size: int = -1) -> bytes:
            Source.count += size
            return bytes(size)

    with GzipStream(Source()) as stream:  # type: ignore[arg-type]
        assert len(stream.read(100)) == 100
    assert Source.count <= (2 * (os.cpu_count() or 1) + 1) * (256 << 10)


def test_a_source_that_fails_is_not_taken_for_its_end() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError("broken")

    with GzipStream(Broken()) as stream, pytest.raises(OSError, match="broken"):  # type: ignore[arg-type]
        stream.read(1 << 20)
