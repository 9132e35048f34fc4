# SPDX-License-Identifier: Apache-2.0
"""btrfs's compressed extents: zlib, lzo and zstd."""

from __future__ import annotations

import ctypes
import struct
import zlib

ZLIB, LZO, ZSTD = 1, 2, 3


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


# Loaded with the module: the confined process opens no file any more. Python has no zstd before
# 3.14; dpkg and rpm need this library themselves, so that a host without it is hard to find.
_zstd = _load("libzstd.so.1")
_lzo = _load("liblzo2.so.2")
if _zstd:
    _zstd.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
    _zstd.ZSTD_decompress.restype = ctypes.c_size_t
    _zstd.ZSTD_isError.restype = ctypes.c_uint
    _zstd.ZSTD_isError.argtypes = (ctypes.c_size_t,)


def unpack(kind: int, data: bytes, size: int, sector: int) -> bytes:
    """Return ``size`` bytes of content; what is not there is zeros, as the kernel reads it.

    :param sector: bytes of a sector of the file system
    :raises ValueError: the data are broken, or packed in another way
    """
    if kind == ZLIB:
        found = _from_zlib(data, size)
    elif kind == LZO:
        found = _from_lzo(data, size, sector)
    elif kind == ZSTD:
        found = _from_zstd(data, size)
    else:
        raise ValueError(f"a file is compressed in an unknown way ({kind})")
    return found.ljust(size, b"\0")


def _from_zlib(data: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, max(1, size))
    except zlib.error as e:
        raise ValueError(f"a compressed file is broken: {e}")


def _from_zstd(data: bytes, size: int) -> bytes:
    if _zstd is None:
        raise ValueError("its files are compressed with zstd: install libzstd1 on this host")
    # the rest of the last sector follows the frame
    length = _zstd.ZSTD_findFrameCompressedSize(data, ctypes.c_size_t(len(data)))
    target = ctypes.create_string_buffer(size)
    written = length if _zstd.ZSTD_isError(length) else _zstd.ZSTD_decompress(
        target, ctypes.c_size_t(size), data, ctypes.c_size_t(length)
    )  # fmt: skip
    if _zstd.ZSTD_isError(written):
        raise ValueError("a file compressed with zstd is broken")
    return target.raw[:written]


def _from_lzo(data: bytes, size: int, sector: int) -> bytes:
    """Unpack segments of one sector each; a segment's length never crosses a sector's end."""
    if _lzo is None:
        raise ValueError("its files are compressed with lzo: install liblzo2-2 on this host")
    (total,) = struct.unpack_from("<I", data, 0)
    at, found = 4, b""
    while at + 4 <= min(total, len(data)) and len(found) < size:
        if sector - at % sector < 4:
            at += sector - at % sector
        (length,) = struct.unpack_from("<I", data, at)
        segment = data[at + 4 : at + 4 + length]
        target = ctypes.create_string_buffer(sector)
        written = ctypes.c_size_t(sector)
        failed = _lzo.lzo1x_decompress_safe(
            segment, ctypes.c_size_t(len(segment)), target, ctypes.byref(written), None
        )
        if failed:
            raise ValueError("a file compressed with lzo is broken")
        found += target.raw[: written.value]
        at += 4 + length
    return found[:size]
