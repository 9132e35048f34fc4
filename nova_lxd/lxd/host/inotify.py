# SPDX-License-Identifier: Apache-2.0
"""inotify(7): which names came to or went from directories."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from nova_lxd.lxd.host.syscalls import libc_call

_MOVED_FROM, _MOVED_TO = 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLYDIR = 0x01000000
_INTEREST = _CREATE | _DELETE | _MOVED_FROM | _MOVED_TO | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_HEADER = struct.Struct("iIII")
_BUFFER = 65536


@dataclass(frozen=True)
class Change:
    """Something happened to a watched directory.

    :param watch: the watch's number, -1 when events were lost and all may have changed.
    :param name: what came or went; empty when the directory itself did.
    """

    watch: int
    name: str

    @property
    def is_lost(self) -> bool:
        return self.watch < 0


class Inotify:
    """One inotify instance; its descriptor is readable when there are changes."""

    def __init__(self) -> None:
        self._fd = libc_call("inotify_init1", ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._fd

    def watch(self, directory: str) -> int:
        """Watch a directory: the watch's number, the same one when it is watched already.

        :raises FileNotFoundError, NotADirectoryError: there is no such directory.
        """
        path = os.fsencode(directory)
        return libc_call(
            "inotify_add_watch", self._fd, path, ctypes.c_uint32(_INTEREST), path=directory
        )

    def unwatch(self, watch: int) -> None:
        """End a watch; idempotent: the kernel ends those of removed directories itself."""
        try:
            libc_call("inotify_rm_watch", self._fd, ctypes.c_int(watch))
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise

    def changes(self) -> Iterator[Change]:
        """What happened since the last call; does not wait."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            yield Change(-1 if mask & _OVERFLOW else watch, name)

    def close(self) -> None:
        os.close(self._fd)
