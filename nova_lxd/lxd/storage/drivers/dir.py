# SPDX-License-Identifier: Apache-2.0
"""Storage driver dir: plain directories, with sizes where the disk has project quotas."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.storage import copying, kernel
from nova_lxd.lxd.storage.drivers.generic import STAGING, space_errors
from nova_lxd.lxd.storage.drivers.interface import Info
from nova_lxd.lxd.storage.drivers.tree_stream import TreeStreams
from nova_lxd.lxd.storage.volume import Volume, VolumeType

LOG = logging.getLogger(__name__)
# linux/fs.h: struct fsxattr is xflags, extsize, nextents, projid, cowextsize and 8 spare bytes.
_FSGETXATTR, _FSSETXATTR = 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("=5I8s")
_PROJINHERIT = 0x200
_GETFLAGS, _SETFLAGS, _TOPDIR = 0x80086601, 0x40086602, 0x20000
_FIRST_PROJECT, _PROJECTS = 10000, 2**31 - 20000
# quotactl: no project quotas here (off, unknown to the file system, or to the kernel).
_NO_QUOTA = (errno.ESRCH, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.ENODEV)


class Dir(TreeStreams):
    """A directory of the host; ``source`` names another one that is bound to the pool's place."""

    name = "dir"

    @classmethod
    def probe(cls) -> Info | None:
        return Info(name="dir", version="1")

    # -- the pool -------------------------------------------------------------------------------

    @classmethod
    def validate(cls, config: Mapping[str, str]) -> None:
        source = config.get("source", "")
        if source and not source.startswith("/"):
            raise BadRequest(f"Invalid source {source[:64]!r} of a dir pool: it must be absolute")
        if config.get("size"):
            raise BadRequest("A dir pool has no size of its own: leave size out")

    @property
    def _foreign(self) -> Path | None:
        """The directory elsewhere that holds the pool, None when it is below LXD_DIR."""
        source = self.config.get("source", "")
        return Path(source) if source and Path(source) != self.root else None

    def create(self) -> dict[str, str]:
        if source := self.config.get("source"):
            self.config.setdefault("volatile.initial_source", source)
        else:
            self.config["source"] = str(self.root)
        foreign = self._foreign
        if foreign is not None and not foreign.is_dir():
            raise BadRequest(f"The source {foreign} of the dir pool is not a directory")
        with contextlib.ExitStack() as undo:
            made = not self.root.exists()
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            if made:
                undo.callback(self.root.rmdir)
            if any((foreign or self.root).iterdir()):
                raise Conflict(f"The source {foreign or self.root} of the dir pool is not empty")
            self._bind()
            undo.callback(self.unmount)
            self.claim()
            undo.callback(self.remove_contents)
            self.make_directories()
            undo.pop_all()
        return dict(self.config)

    def delete(self) -> None:
        if self._foreign is not None and self._foreign.is_dir() and self.root.exists():
            self._bind()
        self.remove_contents()
        self.unmount()
        self.remove_root()

    def _bind(self) -> bool:
        if self._foreign is None or mounts.find(self.root) is not None:
            return False
        mounts.bind(self._foreign, self.root)
        return True

    def mount(self) -> bool:
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        fresh = self._bind()
        self.make_directories()
        self.sweep()
        return fresh

    def unmount(self) -> bool:
        return self._foreign is not None and self.release_root()

    def update(self, config: Mapping[str, str]) -> None:
        for key in ("source", "volatile.initial_source"):
            if config.get(key, "") != self.config.get(key, ""):
                raise BadRequest(f"{key} of storage pool '{self.pool}' cannot be changed")
        self.config = dict(config)

    def make_directories(self) -> None:
        super().make_directories()
        _spread(self.root / STAGING)

    # -- trees ----------------------------------------------------------------------------------

    def make_tree(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def clone_tree(self, source: Path, target: Path, size: int = 0) -> None:
        target.mkdir(mode=0o700)
        if size:
            self.limit_tree(target, size)
        with space_errors(f"Copying {source}", self.root):
            copying.copy_tree(source, target)

    def remove_tree(self, path: Path) -> None:
        project = self._project(path)
        copying.remove_tree(path)
        if project:
            try:
                self._limit_project(self.root, project, 0)
            except OSError as exc:
                if exc.errno not in _NO_QUOTA:
                    raise

    def refresh_volume(
        self, target: Volume, source: Volume, snapshots: Sequence[str] = ()
    ) -> None:
        origin, path = self.need(source), self.need(target)
        for name in snapshots:
            self.copy_snapshot(source.parent.at(name), target.at(name))
        with space_errors(f"Refreshing {target}", path):
            copying.equal_tree(origin, path)

    def restore_snapshot(self, snapshot: Volume) -> None:
        volume, origin = snapshot.parent, self.need(snapshot)
        path = self.need(volume)
        with self.staged() as stage:
            self.clone_tree(origin, stage, volume.size)
            kernel.renameat2(stage, path, kernel.RENAME_EXCHANGE)

    # -- quotas ---------------------------------------------------------------------------------

    def _project(self, path: Path) -> int:
        """The project id of a tree's top directory, 0 for none."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return 0
        try:
            attributes = bytearray(_FSXATTR.size)
            fcntl.ioctl(fd, _FSGETXATTR, attributes)
        except OSError as exc:
            if exc.errno in _NO_QUOTA:
                return 0
            raise
        finally:
            os.close(fd)
        project: int = _FSXATTR.unpack(attributes)[3]
        return project

    def _limit_project(self, path: Path, project: int, size: int) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.set_project_quota(fd, project, size)
        finally:
            os.close(fd)

    def limit_tree(self, path: Path, size: int) -> bool:
        project = self._project(path)
        if not project and not size:
            return True
        try:
            if not project:
                project = self._assign_project(path)
            self._limit_project(path, project, size)
        except OSError as exc:
            if exc.errno in _NO_QUOTA:
                return False
            raise
        return True

    def _assign_project(self, path: Path) -> int:
        """Give a tree a project id of its own, which everything made in it inherits."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The inode number is as good as unique; another user's id is told by its counters.
            project = _FIRST_PROJECT + os.fstat(fd).st_ino % _PROJECTS
            while _taken(fd, project):
                project += 1
            set_project(fd, project)
        finally:
            os.close(fd)
        for directory, _, files, here in os.fwalk(path):
            set_project(here, project)
            for name in files:
                _set_file_project(here, name, project)
            del directory
        return project

    def enforces_sizes(self) -> bool:
        fd = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.project_quota(fd, 0)
        except OSError as exc:
            if exc.errno in _NO_QUOTA:
                return False
            raise
        finally:
            os.close(fd)
        return True

    def usage(self, volume: Volume) -> int | None:
        path = self.need(volume)
        project = self._project(path)
        if not project:
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return kernel.project_quota(fd, project)[1]
        except OSError as exc:
            if exc.errno in _NO_QUOTA:
                return None
            raise
        finally:
            os.close(fd)

    def usages(self, kind: VolumeType) -> Mapping[str, int]:
        found = {}
        for name in os.listdir(self.root / kind.directory):
            used = self.usage(Volume(kind, name))
            if used is not None:
                found[name] = used
        return found


def _spread(directory: Path) -> None:
    """Have ext4 put each tree that is made in a directory elsewhere on the disk (chattr +T).

    Side by side in one place a new tree's files are many times slower to make for minutes after
    another was removed there: ext4 then passes over each freed inode for each new one.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = bytearray(8)
        fcntl.ioctl(fd, _GETFLAGS, flags)
        wanted = int.from_bytes(flags[:4], sys.byteorder) | _TOPDIR
        fcntl.ioctl(fd, _SETFLAGS, wanted.to_bytes(4, sys.byteorder) + bytes(4))
    except OSError as exc:
        if exc.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM):
            raise
        LOG.debug("%s: not a file system that knows top directories", directory)
    finally:
        os.close(fd)


def _taken(fd: int, project: int) -> bool:
    try:
        limit, used = kernel.project_quota(fd, project)
    except OSError as exc:
        if exc.errno == errno.ENOENT:  # no record of this id yet
            return False
        raise
    return bool(limit or used)


def set_project(fd: int, project: int) -> None:
    """Set the project id of an open file or directory; new entries of a directory inherit it."""
    attributes = bytearray(_FSXATTR.size)
    fcntl.ioctl(fd, _FSGETXATTR, attributes)
    flags, extent, count, _, cow, spare = _FSXATTR.unpack(attributes)
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        flags |= _PROJINHERIT
    _FSXATTR.pack_into(attributes, 0, flags, extent, count, project, cow, spare)
    fcntl.ioctl(fd, _FSSETXATTR, attributes)


def _set_file_project(directory: int, name: str, project: int) -> None:
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError as exc:
        # Symbolic links and sockets cannot be opened and use no blocks; the rest vanished.
        if exc.errno in (errno.ELOOP, errno.ENXIO, errno.ENOENT):
            return
        raise
    try:
        set_project(fd, project)
    except OSError as exc:
        if exc.errno != errno.ENOTTY:  # a device node or FIFO uses no blocks either
            raise
    finally:
        os.close(fd)
