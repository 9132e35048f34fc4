# SPDX-License-Identifier: Apache-2.0
"""Reading a compressed file as a stream, at constant memory and only as far as it is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.run import Completed, run
from nova_lxd.lxd.images.formats import Format

#: What the decompressors raise for data that is damaged or ends too early.
DATA_ERRORS = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
#: liblzma refuses a stream whose dictionary would need more; xz -9 needs 65 MiB.
_LZMA_MEMORY = 1 << 30


def _lzma_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)


class _Decoder(Protocol):
    """What bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Stream:
    """The decompressed bytes of a file of one or more streams, as far as they are asked for."""

    def __init__(self, source: BinaryIO, decoder: Callable[[], _Decoder]) -> None:
        self._source = source
        self._make = decoder
        self._decoder = decoder()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        while True:
            rest = b""
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._source.read(65536)
                if not rest.strip(b"\0"):
                    return b""
                self._decoder = self._make()
            elif self._decoder.needs_input:
                rest = self._source.read(65536)
                if not rest:
                    raise EOFError("the compressed data ends too early")
            try:
                data = self._decoder.decompress(rest, size)
            except OSError as exc:  # that is how bz2 tells damaged data
                raise EOFError(str(exc)) from exc
            if data:
                return data


@contextmanager
def program_output(argv: Sequence[str]) -> Iterator[BinaryIO]:
    """The standard output of a program as a stream; closing it early ends the program.

    :raises BadRequest: the program failed although all of its output was read.
    """
    read_end, write_end = os.pipe()
    results: list[Completed] = []

    def work() -> None:
        try:
            results.append(run(argv, stdout=write_end, check=False))
        finally:
            os.close(write_end)

    worker = threading.Thread(target=work, name=f"output-of-{argv[0]}")
    worker.start()
    try:
        with os.fdopen(read_end, "rb") as stream:
            yield stream
            at_end = not stream.read(1)
    finally:
        worker.join()
    if at_end and results and results[0].returncode != 0:
        said = " ".join(results[0].stderr.split())[-200:]
        raise BadRequest(f"Reading the image failed: {argv[0]} says: {said}")


@contextmanager
def decompressed(path: Path, kind: Format) -> Iterator[BinaryIO]:
    """The decompressed bytes of a tar file.

    :raises BadRequest: the data is damaged, or ``kind`` is no form of tar.
    """
    with path.open("rb") as raw:
        try:
            if kind is Format.TAR:
                yield raw
            elif kind is Format.GZIP:
                with gzip.open(raw) as stream:
                    yield cast(BinaryIO, stream)
            elif kind is Format.BZIP2:
                yield cast(BinaryIO, _Stream(raw, bz2.BZ2Decompressor))
            elif kind in (Format.XZ, Format.LZMA):
                yield cast(BinaryIO, _Stream(raw, _lzma_decoder))
            elif kind is Format.ZSTD:
                with program_output(["zstd", "-dc", "--memory=512MB", "--", str(path)]) as output:
                    yield output
            else:
                raise BadRequest(f"Reading the image failed: a {kind.suffix} file is no tar file")
        except DATA_ERRORS as exc:
            raise BadRequest(f"Reading the image failed: its data is damaged: {exc}") from exc
