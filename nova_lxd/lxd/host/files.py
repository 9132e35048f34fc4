# SPDX-License-Identifier: Apache-2.0
"""Files of a container, reached from the host without entering it.

Every path is resolved beneath the container's root, whatever its links say, and ids are the
container's own.  For a stopped container the root is its tree on disk, for a running one
``/proc/INIT/root``, where the calling thread takes over the file system ids of the container's
root for the time of a call, so that new files belong to it (and can be made at all on a tmpfs that
the container mounted).

Errors are :class:`OSError` with errno and the path inside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nova_lxd.lxd.host import syscalls
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.host.liblxc.running import Running

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
# openat2(2) says EAGAIN when a rename elsewhere raced with a path that goes up.
_RACES = 16

# File systems whose files are doors to the kernel.  The daemon is root on the host and must not
# walk through them for a client: /proc/sysrq-trigger, /proc/sys, control groups.
_KERNEL_FILE_SYSTEMS = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0x6165676C,  # pstore
        0xDE5E81E4,  # efivarfs
        0x42494E4D,  # binfmt_misc
        0x65735543,  # fusectl
        0xF97CFF8C,  # selinuxfs
        0x6E736673,  # nsfs
        0x1CD1,  # devpts
    }
)

Kind = Literal["file", "directory", "symlink", "other"]


@dataclass(frozen=True)
class FileInfo:
    """What a path is, without following a link at its end; ids are the container's."""

    kind: Kind
    uid: int
    gid: int
    mode: int  # permission bits
    size: int
    mtime: float


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def _fail(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class Rootfs:
    """The root of one container's files; close it after use."""

    def __init__(self, root_fd: int, idmap: Idmap) -> None:
        self._root = root_fd
        self._idmap = idmap

    @classmethod
    def of_directory(cls, directory: str | Path) -> Rootfs:
        """The tree of a stopped container, whose owners on disk are the container's ids."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return cls(os.open(directory, flags), Idmap())

    @classmethod
    def of_running(cls, running: Running, idmap: Idmap) -> Rootfs:
        """What a running container sees, with all that is mounted inside.

        :param idmap: the map it runs with.
        :raises ProcessLookupError: it has ended.
        """
        try:
            fd = os.open(f"/proc/{running.init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise ProcessLookupError(f"process {running.init} has ended") from exc
        # Had it ended before the open, the number could be another process's by now.
        if not running.alive:
            os.close(fd)
            raise ProcessLookupError(f"process {running.init} has ended")
        return cls(fd, idmap)

    def close(self) -> None:
        """Close the root; files opened through it stay open."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __enter__(self) -> Rootfs:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- reading ------------------------------------------------------------------------------

    def stat(self, path: str) -> FileInfo:
        """What is at a path; a link at its end is not followed."""
        with self._acting(path), self._at(path, os.O_NOFOLLOW) as fd:
            return self.describe(fd)

    def describe(self, fd: int) -> FileInfo:
        """What an open file of the container is."""
        found = os.fstat(fd)
        return FileInfo(
            _kind(found.st_mode),
            self._idmap.ns_uid(found.st_uid),
            self._idmap.ns_gid(found.st_gid),
            stat.S_IMODE(found.st_mode),
            found.st_size,
            found.st_mtime,
        )

    def open_read(self, path: str) -> int:
        """A descriptor of a regular file, for reading; links are followed.

        :raises OSError: EISDIR for a directory, EACCES for what is no file or must not be read.
        """
        with self._acting(path), self._at(path) as fd:
            mode = _regular(fd, path)
            if syscalls.fs_type(fd) in _KERNEL_FILE_SYSTEMS and not mode & stat.S_IROTH:
                raise _fail(errno.EACCES, path)
            return _reopen(fd, os.O_RDONLY)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted; links are followed."""
        with self._acting(path), self._at(path, os.O_DIRECTORY) as fd:
            again = _reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return sorted(os.listdir(again))
            finally:
                os.close(again)

    def readlink(self, path: str) -> str:
        """Where a symbolic link points to.

        :raises OSError: EINVAL when it is no link.
        """
        with self._acting(path), self._at(path, os.O_NOFOLLOW) as fd:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                raise _fail(errno.EINVAL, path)
            return os.readlink("", dir_fd=fd)

    # -- writing ------------------------------------------------------------------------------

    def open_write(
        self,
        path: str,
        *,
        append: bool = False,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
    ) -> int:
        """A descriptor for writing a file, which is made when it is missing; links are followed.

        An old content is cut off unless ``append``.  A new file gets mode 0644 and the container's
        root as owner unless told otherwise; an old one keeps what is not given.
        """
        with self._acting(path), contextlib.ExitStack() as undo:
            fd = self._open_or_create(path, append)
            undo.callback(os.close, fd)
            _regular(fd, path)
            self._writable(fd, path)
            self._own(fd, uid, gid, path)
            if mode is not None:
                os.fchmod(fd, mode)
            if not append:
                os.ftruncate(fd, 0)
            undo.pop_all()
        return fd

    def _open_or_create(self, path: str, append: bool) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_APPEND if append else 0)
        try:
            with self._at(path) as fd:
                _regular(fd, path)
                self._writable(fd, path)
                return _reopen(fd, flags)
        except FileNotFoundError:
            with self._parent(path) as (parent, _):
                self._writable(parent, path)
            # Not O_EXCL: the path may be a link to a file that is to be made.
            extra = os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
            fd = self._openat2(path, flags | extra, 0o644)
            os.set_blocking(fd, True)
            return fd

    def mkdir(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Make a directory.

        :raises OSError: EEXIST when something is there.
        """
        with self._acting(path), self._parent(path) as (parent, name):
            self._writable(parent, path)
            owner = self._host_ids(uid, gid, path)
            os.mkdir(name, 0o700, dir_fd=parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            fd = syscalls.openat2(parent, name, flags, resolve=_RESOLVE)
            try:
                os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def symlink(self, target: str, path: str, *, uid: int = 0, gid: int = 0) -> None:
        """Make a symbolic link at ``path``.

        :raises OSError: EEXIST when something is there.
        """
        with self._acting(path, target), self._parent(path) as (parent, name):
            self._writable(parent, path)
            owner = self._host_ids(uid, gid, path)
            os.symlink(target, name, dir_fd=parent)
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)

    def remove(self, path: str) -> None:
        """Remove a file, link or empty directory.

        :raises OSError: ENOENT, ENOTEMPTY.
        """
        with self._acting(path), self._parent(path) as (parent, name):
            self._writable(parent, path)
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                os.rmdir(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)

    def rename(self, path: str, new_path: str) -> None:
        """Move a file or directory inside the container; what is at ``new_path`` is replaced."""
        with (
            self._acting(path, new_path),
            self._parent(path) as (parent, name),
            self._parent(new_path) as (new_parent, new_name),
        ):
            self._writable(parent, path)
            self._writable(new_parent, new_path)
            os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=new_parent)

    # -- how ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _acting(self, path: str, *others: str) -> Iterator[None]:
        """Act on files as the container's root in this thread; errors name ``path``."""
        if any("\0" in text for text in (path, *others)):
            raise _fail(errno.EINVAL, path)
        try:
            with self._identity():
                yield
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, path) from exc

    @contextlib.contextmanager
    def _identity(self) -> Iterator[None]:
        """The file system ids of the container's root, with root's rights over files."""
        uid, gid = self._idmap.host_uid(0), self._idmap.host_gid(0)
        if not self._idmap or uid is None or gid is None:
            yield
            return
        syscalls.set_fs_ids(uid, gid)
        try:
            # Leaving id 0 dropped these from the thread's effective set.
            syscalls.raise_capabilities(syscalls.CAPS_FILES)
            yield
        finally:
            syscalls.set_fs_ids(0, 0)

    def _openat2(self, path: str, flags: int, mode: int = 0) -> int:
        for _ in range(_RACES):
            try:
                return syscalls.openat2(self._root, path.lstrip("/") or ".", flags, mode, _RESOLVE)
            except BlockingIOError:
                continue
        raise _fail(errno.EAGAIN, path)

    @contextlib.contextmanager
    def _at(self, path: str, flags: int = 0) -> Iterator[int]:
        """An O_PATH descriptor of a path."""
        fd = self._openat2(path, os.O_PATH | flags)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that holds a path, and the path's last name."""
        directory, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise _fail(errno.EINVAL, path)
        with self._at(directory, os.O_DIRECTORY) as fd:
            yield fd, name

    def _host_ids(self, uid: int | None, gid: int | None, path: str) -> tuple[int, int]:
        host_uid = -1 if uid is None else self._idmap.host_uid(uid)
        host_gid = -1 if gid is None else self._idmap.host_gid(gid)
        if host_uid is None or host_gid is None:
            raise _fail(errno.EINVAL, path)
        return host_uid, host_gid

    def _own(self, fd: int, uid: int | None, gid: int | None, path: str) -> None:
        if uid is not None or gid is not None:
            os.fchown(fd, *self._host_ids(uid, gid, path))

    @staticmethod
    def _writable(fd: int, path: str) -> None:
        if syscalls.fs_type(fd) in _KERNEL_FILE_SYSTEMS:
            raise _fail(errno.EACCES, path)


def _regular(fd: int, path: str) -> int:
    """The mode of what must be a regular file."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise _fail(errno.EISDIR, path)
    if not stat.S_ISREG(mode):
        raise _fail(errno.EACCES, path)
    return mode


def _reopen(fd: int, flags: int) -> int:
    """Open what an O_PATH descriptor holds; nobody can put another file in its place."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
