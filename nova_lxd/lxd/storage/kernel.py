# SPDX-License-Identifier: Apache-2.0
"""System calls that only storage needs: exchanging two directories, and disk quotas by project."""

from __future__ import annotations

import ctypes
import os

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

Q_GETQUOTA = 0x800007
Q_SETQUOTA = 0x800008
_PRJQUOTA = 2
_QIF_BLIMITS = 1
_QUOTA_BLOCK = 1024
_AT_FDCWD = -100
_NR_QUOTACTL_FD = 443

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _DiskQuota(ctypes.Structure):
    _fields_ = [
        ("bhardlimit", ctypes.c_uint64),
        ("bsoftlimit", ctypes.c_uint64),
        ("curspace", ctypes.c_uint64),
        ("ihardlimit", ctypes.c_uint64),
        ("isoftlimit", ctypes.c_uint64),
        ("curinodes", ctypes.c_uint64),
        ("btime", ctypes.c_uint64),
        ("itime", ctypes.c_uint64),
        ("valid", ctypes.c_uint32),
    ]


def renameat2(old: str | os.PathLike[str], new: str | os.PathLike[str], flags: int) -> None:
    """renameat2(2) of two paths of one file system."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old), None, str(new))


def _quotactl(fd: int, command: int, project: int, quota: _DiskQuota) -> None:
    done = _libc.syscall(
        ctypes.c_long(_NR_QUOTACTL_FD),
        ctypes.c_uint(fd),
        ctypes.c_uint(command << 8 | _PRJQUOTA),
        ctypes.c_uint(project),
        ctypes.byref(quota),
    )
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def project_quota(fd: int, project: int) -> tuple[int, int]:
    """(limit, use) in bytes of a project id on the file system of ``fd``; limit 0 for none.

    :raises OSError: ESRCH where project quotas are off, ENOSYS on Linux before 5.14.
    """
    quota = _DiskQuota()
    _quotactl(fd, Q_GETQUOTA, project, quota)
    return quota.bhardlimit * _QUOTA_BLOCK, quota.curspace


def set_project_quota(fd: int, project: int, limit: int) -> None:
    """Limit a project id to ``limit`` bytes (rounded up to 1 KiB), 0 for no limit."""
    blocks = -(-limit // _QUOTA_BLOCK)
    quota = _DiskQuota(bhardlimit=blocks, bsoftlimit=0, valid=_QIF_BLIMITS)
    _quotactl(fd, Q_SETQUOTA, project, quota)
