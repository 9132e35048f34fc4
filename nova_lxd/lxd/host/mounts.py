# SPDX-License-Identifier: Apache-2.0
"""Mounts on the host: bind, idmapped bind, unmount, and the table of what is mounted."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.lxd.host import syscalls

# What umount2(2) says when there is nothing to unmount.
_NOT_MOUNTED = (errno.EINVAL, errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True)
class Mount:
    """One line of /proc/PID/mountinfo."""

    id: int
    device: str
    root: str
    target: str
    options: str
    fstype: str
    source: str
    super_options: str
    propagation: str = ""


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), field)


def parse_mountinfo(text: str) -> Iterator[Mount]:
    """The mounts in the text of a mountinfo file, oldest first."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        yield Mount(
            int(fields[0]),
            fields[2],
            _unescape(fields[3]),
            _unescape(fields[4]),
            fields[5],
            tail[0],
            _unescape(tail[1]),
            tail[2],
            " ".join(fields[6:]),
        )


def mounts(pid: int | str = "self") -> list[Mount]:
    """What is mounted in the mount namespace of ``pid``."""
    text = Path(f"/proc/{pid}/mountinfo").read_bytes().decode("utf-8", "surrogateescape")
    return list(parse_mountinfo(text))


def find(target: str | Path) -> Mount | None:
    """The topmost mount at exactly this absolute path, None when nothing is mounted there."""
    wanted = str(target)
    found = None
    for entry in mounts():
        if entry.target == wanted:
            found = entry
    return found


def below(directory: str | Path) -> list[Mount]:
    """The mounts at or below a directory, in the order in which they have to be unmounted."""
    top = str(directory).rstrip("/")
    return [m for m in reversed(mounts()) if m.target == top or m.target.startswith(top + "/")]


def clone(
    source: str | Path,
    *,
    userns_fd: int | None = None,
    recursive: bool = False,
    readonly: bool = False,
    directory: int = syscalls.AT_FDCWD,
) -> int:
    """A detached, private copy of the mount (tree) at ``source``: the caller closes it.

    :param userns_fd: user namespace whose map applies to the copy (an idmapped mount).
    :raises OSError: EINVAL when the file system cannot be idmapped.
    """
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    if not str(source):
        flags |= syscalls.AT_EMPTY_PATH
    fd = syscalls.open_tree(
        directory, str(source), flags | (syscalls.AT_RECURSIVE if recursive else 0)
    )
    try:
        attr = syscalls.MOUNT_ATTR_RDONLY if readonly else 0
        if userns_fd is not None:
            attr |= syscalls.MOUNT_ATTR_IDMAP
        syscalls.mount_setattr(
            fd,
            attr_set=attr,
            propagation=syscalls.MS_PRIVATE,
            userns_fd=userns_fd or 0,
            recursive=recursive,
        )
    except OSError as exc:
        os.close(fd)
        raise OSError(exc.errno, exc.strerror, str(source)) from exc
    return fd


def bind(
    source: str | Path,
    target: str | Path,
    *,
    userns_fd: int | None = None,
    recursive: bool = False,
    readonly: bool = False,
) -> None:
    """Mount ``source`` at ``target``, both of which exist and are of one kind (file, directory).

    The new mount is private.  With ``userns_fd`` it is idmapped: owners on disk are ids inside
    that namespace.  Nothing is left mounted on failure.

    :raises OSError: EINVAL when the file system cannot be idmapped.
    """
    fd = clone(source, userns_fd=userns_fd, recursive=recursive, readonly=readonly)
    try:
        syscalls.move_mount(fd, syscalls.AT_FDCWD, str(target))
        # Where its parent is shared, as on every host with systemd, it has become so, too.
        syscalls.mount_setattr(fd, propagation=syscalls.MS_PRIVATE, recursive=recursive)
    finally:
        os.close(fd)


def supports_idmap(directory: str | Path, userns_fd: int) -> bool:
    """Can we mount the file system of this directory idmapped?"""
    try:
        os.close(clone(directory, userns_fd=userns_fd))
    except OSError as exc:
        # EPERM: we are in a container ourselves, and the file system is not its own.
        if exc.errno in (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def unmount(target: str | Path, *, lazy: bool = False) -> bool:
    """Unmount the topmost mount at ``target``; False when nothing was mounted there.

    :raises OSError: EBUSY and the like.
    """
    try:
        syscalls.umount2(
            str(target), syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazy else 0)
        )
    except OSError as exc:
        if exc.errno in _NOT_MOUNTED:
            return False
        raise
    return True


def unmount_all(directory: str | Path, *, lazy: bool = False) -> None:
    """Unmount everything at and below a directory; fine when nothing is mounted there."""
    for entry in below(directory):
        unmount(entry.target, lazy=lazy)


@contextlib.contextmanager
def mounted(
    source: str | Path, target: str | Path, *, userns_fd: int | None = None
) -> Iterator[None]:
    """A bind mount for the duration of a ``with`` block."""
    bind(source, target, userns_fd=userns_fd)
    try:
        yield
    finally:
        unmount(target, lazy=True)
