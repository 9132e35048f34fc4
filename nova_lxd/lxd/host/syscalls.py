# SPDX-License-Identifier: Apache-2.0
"""System calls that the standard library of Python 3.11 lacks, through ctypes.

Each raises :class:`OSError` with errno and the path it was about.  The module imports nothing of
the package, so that the small helper process can load it.
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
CLONE_FS = 0x00000200

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_IDMAP = 0x00100000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# chown, dac_override, dac_read_search, fowner, fsetid: those that setfsuid(2) drops.
CAPS_FILES = 0b11111
_CAPABILITY_VERSION_3 = 0x20080522

# Numbers of calls made since Linux 5.1 are the same on every architecture.
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _fail(path: str | bytes | None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def libc_call(name: str, *args: object, path: str | None = None) -> int:
    """A call of the C library that answers -1 and sets errno when it fails."""
    result: int = getattr(_libc, name)(*args)
    if result < 0:
        raise _fail(path)
    return result


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(fstype) or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    if done:
        raise _fail(target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(os.fsencode(target), flags):
        raise _fail(target)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): a descriptor of a mount, with OPEN_TREE_CLONE of a detached copy of it."""
    fd: int = _libc.syscall(
        ctypes.c_long(_NR_OPEN_TREE), directory, os.fsencode(path), ctypes.c_uint(flags)
    )
    if fd < 0:
        raise _fail(path)
    return fd


def move_mount(mount_fd: int, directory: int, path: str, flags: int = 0) -> None:
    """move_mount(2) of a detached mount to ``path`` (or to ``directory`` itself when empty)."""
    flags |= MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    done = _libc.syscall(
        ctypes.c_long(_NR_MOVE_MOUNT),
        mount_fd,
        b"",
        directory,
        os.fsencode(path),
        ctypes.c_uint(flags),
    )
    if done < 0:
        raise _fail(path)


def mount_setattr(
    mount_fd: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) of the mount behind ``mount_fd``."""
    attr = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    done = _libc.syscall(
        ctypes.c_long(_NR_MOUNT_SETATTR),
        mount_fd,
        b"",
        ctypes.c_uint(AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    if done < 0:
        raise _fail(None)


def openat2(directory: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); the descriptor is close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    fd: int = _libc.syscall(
        ctypes.c_long(_NR_OPENAT2),
        directory,
        os.fsencode(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        raise _fail(path)
    return fd


def fs_type(fd: int) -> int:
    """The magic number of the file system behind a descriptor: fstatfs(2)'s ``f_type``."""
    # The first word of a structure of at most 120 bytes.
    buffer = (ctypes.c_long * 32)()
    if _libc.fstatfs(fd, buffer):
        raise _fail(None)
    return buffer[0]


def setns(fd: int, kind: int) -> None:
    """setns(2) of the calling thread."""
    if _libc.setns(fd, kind):
        raise _fail(None)


def unshare(flags: int) -> None:
    """unshare(2) of the calling thread."""
    if _libc.unshare(flags):
        raise _fail(None)


def become_subreaper() -> None:
    """prctl(PR_SET_CHILD_SUBREAPER): orphaned descendants become this process's children."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0):
        raise _fail(None)


def signal_at_parents_death(number: int) -> None:
    """prctl(PR_SET_PDEATHSIG): get a signal when the parent ends; 0: no more."""
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0):
        raise _fail(None)


def set_fs_ids(uid: int, gid: int) -> None:
    """setfsgid(2) and setfsuid(2) of the calling thread, checked by asking again."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if _libc.setfsgid(-1) != gid or _libc.setfsuid(-1) != uid:
        raise PermissionError(1, f"Cannot take over file system ids {uid}:{gid}")


def raise_capabilities(capabilities: int) -> None:
    """Add a bit mask of permitted capabilities to the calling thread's effective ones."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    if _libc.capget(ctypes.byref(header), data):
        raise _fail(None)
    data[0].effective |= capabilities & 0xFFFFFFFF
    data[1].effective |= capabilities >> 32
    if _libc.capset(ctypes.byref(header), data):
        raise _fail(None)
