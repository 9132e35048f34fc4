# SPDX-License-Identifier: Apache-2.0
"""Takes a helper process's powers away before it reads what nobody vouches for.

Used by :mod:`nova_lxd.lxd.storage.unpack_child` only: there is no way back.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

# What unpacking needs: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, MKNOD, SETFCAP.
_KEPT = {0, 1, 2, 3, 4, 27, 31}
# For attributes in the namespaces trusted and security.  Landlock forbids every kind of mounting,
# so this is kept only together with it.
_SYS_ADMIN = 21

_NR_CREATE_RULESET, _NR_ADD_RULE, _NR_RESTRICT_SELF = 444, 445, 446
_CREATE_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE = 1 << 1
_REFER = 1 << 13
_TRUNCATE = 1 << 14
# Removing and making every kind of file.
_CHANGES = sum(1 << bit for bit in range(4, 13))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _prctl(option: int, argument: int) -> int:
    done: int = _libc.prctl(
        option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    return done


def die_with_parent() -> None:
    """Get SIGKILL when the thread that started this process ends."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise _fail()


def only_write_below(directories: Iterable[Path]) -> bool:
    """Make, change and remove files only below these; False where the kernel lacks Landlock."""
    version = _libc.syscall(
        ctypes.c_long(_NR_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(_CREATE_VERSION)
    )
    if version < 1:
        return False
    rights = _WRITE_FILE | _CHANGES
    if version >= 2:
        rights |= _REFER
    if version >= 3:
        rights |= _TRUNCATE
    handled = ctypes.c_uint64(rights)
    ruleset = _libc.syscall(
        ctypes.c_long(_NR_CREATE_RULESET), ctypes.byref(handled), ctypes.c_size_t(8), 0
    )
    if ruleset < 0:
        raise _fail()
    try:
        for directory in directories:
            _allow(ruleset, directory, rights)
        _allow(ruleset, Path("/dev/null"), _WRITE_FILE)
        if _libc.syscall(ctypes.c_long(_NR_RESTRICT_SELF), ruleset, 0):
            raise _fail()
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights, fd)
        if _libc.syscall(
            ctypes.c_long(_NR_ADD_RULE), ruleset, _PATH_BENEATH, ctypes.byref(rule), 0
        ):
            raise _fail()
    finally:
        os.close(fd)


def drop_powers(directories: Iterable[Path]) -> None:
    """Keep what unpacking into ``directories`` needs, for this process and all it executes."""
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1):
        raise _fail()
    kept = _KEPT | ({_SYS_ADMIN} if only_write_below(directories) else set())
    capability = 0
    # Root's programs get what the bounding set has; the first unknown number ends the list.
    while True:
        if capability not in kept and _prctl(_PR_CAPBSET_DROP, capability):
            return
        capability += 1
