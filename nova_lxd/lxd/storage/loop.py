# SPDX-License-Identifier: Apache-2.0
"""Loop devices by ioctl (linux/loop.h): they vanish with their last user, so none is leaked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from nova_lxd.lxd.errors import InternalError

_SET_CAPACITY = 0x4C07
_CONFIGURE = 0x4C0A
_GET_STATUS64 = 0x4C05
_CTL_GET_FREE = 0x4C82
_AUTOCLEAR = 4
_DIRECT_IO = 16
_INFO_SIZE = 232
_ATTEMPTS = 64


def _attached(device: int) -> tuple[int, int] | None:
    """(device, inode) of the file behind a loop device, None when it is free."""
    info = bytearray(_INFO_SIZE)
    try:
        fcntl.ioctl(device, _GET_STATUS64, info)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise
    found: tuple[int, int] = struct.unpack_from("=QQ", info)
    return found


def find(file: Path) -> Path | None:
    """The loop device whose file is ``file``, None when there is none."""
    status = file.stat()
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        device = Path("/dev", entry.parts[3])
        try:
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            found = _attached(fd)
        finally:
            os.close(fd)
        # The kernel packs st_dev otherwise than libc does.
        if found and found[1] == status.st_ino and _same_device(found[0], status.st_dev):
            return device
    return None


def _same_device(kernel: int, libc: int) -> bool:
    major, minor = kernel >> 8 & 0xFFF, kernel & 0xFF | kernel >> 12 & 0xFFF00
    return (major, minor) == (os.major(libc), os.minor(libc))


def _configure(device: int, file: int, flags: int) -> None:
    config = bytearray(struct.pack(f"=II{_INFO_SIZE}x64x", file, 0))
    # struct loop_info64: lo_flags follows five 64-bit and three 32-bit numbers.
    struct.pack_into("=I", config, 8 + 5 * 8 + 3 * 4, flags)
    fcntl.ioctl(device, _CONFIGURE, config)


@contextlib.contextmanager
def attached(file: Path) -> Iterator[Path]:
    """The loop device of ``file``, attached when it was not; mount it within the block.

    The device is freed when the block ends and nothing else (a mount) uses it.

    :raises InternalError: no loop device could be had.
    """
    present = find(file)
    if present is not None:
        fd = os.open(present, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _attached(fd) is not None:
                yield present
                return
        finally:
            os.close(fd)
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, path = _attach(backing, file)
    finally:
        os.close(backing)
    try:
        yield path
    finally:
        os.close(device)


def _attach(backing: int, file: Path) -> tuple[int, Path]:
    for _ in range(_ATTEMPTS):
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            path = Path(f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}")
        finally:
            os.close(control)
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                _configure(device, backing, _AUTOCLEAR | _DIRECT_IO)
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
                _configure(device, backing, _AUTOCLEAR)
            return device, path
        except OSError as exc:
            os.close(device)
            if exc.errno != errno.EBUSY:  # somebody else took it between the two calls
                raise
    raise InternalError(f"No free loop device for {file}: raise the max_loop limit of the kernel")


def refresh_size(device: Path) -> None:
    """Tell the loop device that its file has grown."""
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET_CAPACITY)
    finally:
        os.close(fd)
