# SPDX-License-Identifier: Apache-2.0
"""Storage driver btrfs: a subvolume per volume, clones and snapshots copy-on-write.

No program runs and no tree is walked on the way of create, copy, snapshot, restore and delete.
Quota groups are turned on with the first size that is asked for, because they slow down the whole
file system.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host.run import run
from nova_lxd.lxd.storage.drivers import btrfs_ioctl as ioctl
from nova_lxd.lxd.storage.drivers.btrfs_pool import BtrfsPool
from nova_lxd.lxd.storage.drivers.btrfs_stream import BtrfsStreams
from nova_lxd.lxd.storage.drivers.generic import is_full, space_errors
from nova_lxd.lxd.storage.drivers.interface import Info
from nova_lxd.lxd.storage.kernel import RENAME_EXCHANGE, renameat2
from nova_lxd.lxd.storage.volume import Volume, VolumeType

# What the kernel says about a quota group that cannot go (yet): its subvolume is still being
# cleaned up, it is gone, or quotas are off.  The sweep at the next mount tries again.
_QGROUP_STAYS = (errno.EBUSY, errno.ENOENT, errno.EINVAL, errno.ENOTCONN)

_RECLAIM_SECONDS = 10.0
_RECLAIM_PAUSE = 0.05


@functools.cache
def _version() -> str | None:
    if "\tbtrfs\n" not in Path("/proc/filesystems").read_text("ascii"):
        return None
    if not (shutil.which("btrfs") and shutil.which("mkfs.btrfs")):
        return None
    found = re.search(r"v([0-9.]+)", run(["btrfs", "version"]).text)
    return found[1] if found else "unknown"


class Btrfs(BtrfsPool, BtrfsStreams):
    """A btrfs pool on a loop file, a block device or an existing directory of one."""

    name = "btrfs"

    @classmethod
    def probe(cls) -> Info | None:
        version = _version()
        if version is None:
            return None
        return Info(
            name="btrfs",
            version=version,
            optimized_images=True,
            optimized_backups=True,
            preserves_inodes=True,
            running_copy_safe=True,
        )

    # -- trees ----------------------------------------------------------------------------------

    def make_tree(self, path: Path) -> None:
        ioctl.create_subvolume(path)

    def clone_tree(self, source: Path, target: Path, size: int = 0) -> None:
        ioctl.snapshot(source, target)
        for name in ioctl.nested(source):
            # A snapshot has an empty directory in the place of a nested subvolume.
            (target / name).rmdir()
            ioctl.snapshot(source / name, target / name)
        if size:
            self.limit_tree(target, size)

    def remove_tree(self, path: Path) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if status.st_ino != ioctl.SUBVOLUME_INODE:
            self._remove_directory(path)
            return
        nested = ioctl.nested(path)
        group = self._group(path)
        if nested:
            for name in ["", *nested]:
                ioctl.set_readonly(path / name, False)
            for name in reversed(nested):
                ioctl.destroy(path / name)
        ioctl.destroy(path)
        if group is not None:
            self._remove_group(group)

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        try:
            with super().staged() as stage:
                yield stage
        except BaseException:
            self._reclaim()
            raise

    def _reclaim(self) -> None:
        """On a full pool, wait until the kernel has freed the space of what was removed."""
        if not is_full(self.root):
            return
        deadline = time.monotonic() + _RECLAIM_SECONDS
        with ioctl.opened(self.root) as fd:
            while time.monotonic() < deadline:
                ioctl.sync(fd)
                if not ioctl.has_dead_subvolumes(fd):
                    return
                time.sleep(_RECLAIM_PAUSE)

    def _remove_directory(self, path: Path) -> None:
        """Remove what is no subvolume: the directory in which a stream was being received."""
        if not path.is_dir() or path.is_symlink():
            path.unlink()
            return
        for entry in os.scandir(path):
            self.remove_tree(Path(entry.path))
        path.rmdir()

    def freeze_tree(self, path: Path) -> None:
        for name in [*reversed(ioctl.nested(path)), ""]:
            ioctl.set_readonly(path / name, True)

    def age(self, entry: os.DirEntry[str]) -> tuple[float, str]:
        # Ids of subvolumes only ever grow.
        with ioctl.opened(entry.path) as fd:
            return ioctl.subvolume_id(fd), entry.name

    def discard(self, path: Path) -> None:
        # A read-only subvolume cannot change its directory.  Destroying one is a single step;
        # with others nested in it, it is made writable and moved away first.
        try:
            nested = ioctl.nested(path)
        except FileNotFoundError:
            return
        if not nested:
            self.remove_tree(path)
            return
        ioctl.set_readonly(path, False)
        super().discard(path)

    def _clone_at(self, source: Path, target: Path, *, readonly: bool) -> bool:
        """Clone in one step to the final name; False when nested subvolumes forbid that."""
        if ioctl.nested(source):
            return False
        ioctl.snapshot(source, target, readonly=readonly)
        return True

    # -- volumes --------------------------------------------------------------------------------

    def copy_volume(self, target: Volume, source: Volume, snapshots: Sequence[str] = ()) -> None:
        path, origin = self.vacant(target), self.need(source)
        if snapshots or ioctl.nested(origin):
            super().copy_volume(target, source, snapshots)
            return
        with contextlib.ExitStack() as undo, space_errors(f"Copying {source}", self.root):
            ioctl.snapshot(origin, path)
            undo.callback(self.remove_tree, path)
            self.seal(path, target)
            self.limit_tree(path, target.size)
            undo.pop_all()

    def copy_snapshot(self, source: Volume, target: Volume) -> None:
        origin, path = self.need(source), self.vacant(target)
        if not self._clone_at(origin, path, readonly=True):
            super().copy_snapshot(source, target)

    def refresh_volume(
        self, target: Volume, source: Volume, snapshots: Sequence[str] = ()
    ) -> None:
        origin = self.need(source)
        for name in snapshots:
            self.copy_snapshot(source.parent.at(name), target.at(name))
        self._replace(target, origin)

    def restore_snapshot(self, snapshot: Volume) -> None:
        self._replace(snapshot.parent, self.need(snapshot))

    def _replace(self, volume: Volume, origin: Path) -> None:
        path = self.need(volume)
        with self.staged() as stage:
            self.clone_tree(origin, stage, volume.size)
            renameat2(stage, path, RENAME_EXCHANGE)

    # -- quotas ---------------------------------------------------------------------------------

    def limit_tree(self, path: Path, size: int) -> bool:
        with ioctl.opened(path) as fd:
            subvolume = ioctl.subvolume_id(fd)
            try:
                ioctl.limit(fd, subvolume, size)
            except OSError as exc:
                if exc.errno != errno.ENOTCONN:
                    raise
                if not size:
                    return True
                ioctl.enable_quota(fd)
                ioctl.limit(fd, subvolume, size)
        return True

    def enforces_sizes(self) -> bool:
        return True

    def usage(self, volume: Volume) -> int | None:
        with ioctl.opened(self.need(volume)) as fd:
            try:
                subvolume = ioctl.subvolume_id(fd)
                return ioctl.referred(fd, subvolume).get(subvolume)
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    return None
                raise

    def usages(self, kind: VolumeType) -> Mapping[str, int]:
        with ioctl.opened(self.root / kind.directory) as fd:
            try:
                referred = ioctl.referred(fd)
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    return {}
                raise
            here = (ioctl.subvolume_id(fd), os.fstat(fd).st_ino)
            return {
                reference.name: referred[reference.id]
                for reference in ioctl.references(fd)
                if (reference.parent, reference.directory) == here and reference.id in referred
            }

    def _group(self, path: Path) -> int | None:
        """The quota group of a subvolume, None while quotas are off."""
        with ioctl.opened(path) as fd:
            subvolume = ioctl.subvolume_id(fd)
            try:
                return subvolume if ioctl.referred(fd, subvolume) else None
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    return None
                raise

    def _remove_group(self, group: int) -> None:
        with ioctl.opened(self.root) as fd:
            try:
                ioctl.remove_qgroup(fd, group)
            except OSError as exc:
                if exc.errno not in _QGROUP_STAYS:
                    raise InternalError(
                        f"Cannot remove quota group 0/{group} of storage pool '{self.pool}': {exc}"
                    ) from exc

    def sweep(self) -> None:
        super().sweep()
        with ioctl.opened(self.root) as fd:
            try:
                groups = set(ioctl.referred(fd))
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    return
                raise
            living = {reference.id for reference in ioctl.references(fd)}
        for group in groups - living:
            if group >= ioctl.SUBVOLUME_INODE:
                self._remove_group(group)
