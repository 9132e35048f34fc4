# SPDX-License-Identifier: Apache-2.0
"""Terminals of containers, opened and resized from the host."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import termios

from nova_lxd.lxd.host import syscalls

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_TTYAUX_MAJOR = 5
_MOST_CELLS = 0xFFFF


def open_pty(pid: int, root: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """A new terminal of the container of init ``pid``: (master, slave), the caller closes both.

    It comes from the container's own devpts, so that ``tty`` works in it.

    :param root: host uid and gid of the container's root, who gets the terminal.
    :raises OSError: the container has no devpts of its own.
    """
    top = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The container controls every link on this path: it must not lead out.
        master = syscalls.openat2(
            top,
            "dev/pts/ptmx",
            os.O_RDWR | os.O_NOCTTY,
            resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS,
        )
    finally:
        os.close(top)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, master)
        if os.major(os.fstat(master).st_rdev) != _TTYAUX_MAJOR:
            raise OSError(errno.ENODEV, "the container's /dev/pts/ptmx is not a terminal")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        undo.callback(os.close, slave)
        os.fchown(slave, *root)
        undo.pop_all()
    return master, slave


def resize(master: int, rows: int, columns: int) -> None:
    """Set a terminal's window size; its foreground programs get SIGWINCH.

    A size that no terminal can have becomes the nearest that one can.
    """
    size = (min(max(number, 0), _MOST_CELLS) for number in (rows, columns))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
