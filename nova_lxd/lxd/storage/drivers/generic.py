# SPDX-License-Identifier: Apache-2.0
"""What the drivers whose volumes are directories of a mounted file system (dir, btrfs) share."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest, Conflict, NoSpace, NotFound
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.host.run import ProgramError
from nova_lxd.lxd.schema.sizes import parse_size
from nova_lxd.lxd.storage.drivers.interface import Driver, Filler, Resources
from nova_lxd.lxd.storage.volume import (
    BLOCK_FILE,
    DEFAULT_BLOCK_SIZE,
    ContentType,
    Volume,
    VolumeType,
)

#: Half-made volumes live here until a rename gives them their name.
STAGING = ".staging"
#: A file at the top of a pool that tells which pool it is.
_CLAIM = ".nova-lxd-pool"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 64 * 1024
_SWEEPS, _SWEEP_PAUSE = 20, 0.1


def pool_directories() -> list[str]:
    """The directories that LXD keeps at the top of a pool, and our own for staging."""
    tops = [STAGING]
    for kind in VolumeType:
        tops.append(kind.directory)
        if kind.snapshots_directory:
            tops.append(kind.snapshots_directory)
    return tops


def is_full(directory: Path) -> bool:
    """Does the file system or quota of a directory refuse another 64 KiB?

    Programs tell "disk full" by their words only; asking the kernel again tells it by errno.
    """
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"\1" * _PROBE_BYTES)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        return exc.errno in _NO_SPACE
    return False


@contextlib.contextmanager
def space_errors(what: str, directory: Path) -> Iterator[None]:
    """Turn "no space" and "quota exceeded" within the block into NoSpace about ``what``."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise NoSpace(f"{what} failed: the pool or the volume's size limit is full") from exc
        raise
    except NoSpace:
        raise
    except Exception as exc:
        if directory.is_dir() and is_full(directory):
            raise NoSpace(f"{what} failed: the pool or the volume's size limit is full") from exc
        raise


class TreeDriver(Driver):
    """A pool that is one mounted file system, with a directory or subvolume per volume."""

    # -- what differs ---------------------------------------------------------------------------

    @abstractmethod
    def make_tree(self, path: Path) -> None:
        """Make an empty tree at a path whose parent exists."""

    @abstractmethod
    def clone_tree(self, source: Path, target: Path, size: int = 0) -> None:
        """Make a writable copy of a tree, limited to ``size`` bytes; a failure may leave half."""

    @abstractmethod
    def remove_tree(self, path: Path) -> None:
        """Remove a tree and all that is in it; fine when it is not there."""

    def freeze_tree(self, path: Path) -> None:
        """Make a finished tree read-only, where the driver can."""

    # -- the pool -------------------------------------------------------------------------------

    def make_directories(self) -> None:
        """The top directories of a pool, closed to everybody but root.

        Trees are stored with the container's own ids: what is set-uid root in there must not be
        within reach of a user of the host.
        """
        for name in pool_directories():
            top = self.root / name
            top.mkdir(mode=0o700, parents=True, exist_ok=True)
            top.chmod(0o700)

    def claim(self) -> None:
        """Write whose pool this is; from here on :meth:`remove_contents` may remove it."""
        (self.root / _CLAIM).write_text(f"{self.root}\n")

    def _is_ours(self) -> bool:
        try:
            return (self.root / _CLAIM).read_text() == f"{self.root}\n"
        except FileNotFoundError:
            return False

    def release_root(self) -> bool:
        """Unmount the pool's place; Conflict while something on it is in use."""
        try:
            return mounts.unmount(self.root)
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            raise Conflict(
                f"Cannot unmount storage pool '{self.pool}': something on it is in use;"
                " stop the instances on it first"
            ) from exc

    def remove_root(self) -> None:
        """Remove the mount point; one that holds what is not ours stays."""
        try:
            self.root.rmdir()
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def sweep(self) -> None:
        """Remove what a killed daemon left half-made."""
        # A program that is dying with the last daemon may still end one system call.
        for attempt in range(_SWEEPS):
            try:
                for entry in os.scandir(self.root / STAGING):
                    self.remove_tree(Path(entry.path))
            except (ProgramError, OSError):
                if attempt == _SWEEPS - 1:
                    raise
                time.sleep(_SWEEP_PAUSE)
            else:
                return

    def remove_contents(self) -> bool:
        """Remove every volume and the top directories of the pool; False when it is not ours.

        Nothing is touched on what was never claimed: a pool that was refused because its source
        holds data may be deleted after a restart.
        """
        if not self._is_ours():
            return False
        for name in pool_directories():
            top = self.root / name
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(top):
                    path = Path(entry.path)
                    if name.endswith("-snapshots"):
                        for snapshot in os.scandir(path):
                            self.remove_tree(Path(snapshot.path))
                    self.remove_tree(path)
                top.rmdir()
        (self.root / _CLAIM).unlink()
        return True

    def resources(self) -> Resources:
        status = os.statvfs(self.root)
        total = status.f_blocks * status.f_frsize
        return Resources(
            space_used=total - status.f_bfree * status.f_frsize,
            space_total=total,
            inodes_used=status.f_files - status.f_ffree,
            inodes_total=status.f_files,
        )

    # -- helpers --------------------------------------------------------------------------------

    def path(self, volume: Volume) -> Path:
        return self.root / volume.relative_path

    def has(self, volume: Volume) -> bool:
        return os.path.lexists(self.path(volume))

    def need(self, volume: Volume) -> Path:
        """The path of a volume that must exist."""
        path = self.path(volume)
        if not os.path.lexists(path):
            raise NotFound(f"There is no {volume} on storage pool '{self.pool}'")
        return path

    def vacant(self, volume: Volume) -> Path:
        """The path of a volume that must not exist; the directory of its snapshots is made."""
        path = self.path(volume)
        if os.path.lexists(path):
            raise Conflict(f"There already is a {volume} on storage pool '{self.pool}'")
        if volume.snapshot is not None:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        return path

    @staticmethod
    def seal(path: Path, volume: Volume) -> None:
        """Close the top of an instance's or image's volume, whatever an archive made of it.

        The top of a custom volume is part of its content.
        """
        if volume.type is VolumeType.CUSTOM:
            return
        status = path.stat()
        # A clone is closed already; touching it would make btrfs count its quota group anew.
        if (status.st_uid, status.st_gid) != (0, 0):
            os.chown(path, 0, 0)
        if stat.S_IMODE(status.st_mode) != volume.mode:
            path.chmod(volume.mode)

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A vacant path to make a tree at; what is still there in the end is removed."""
        path = self.root / STAGING / secrets.token_hex(8)
        try:
            yield path
        finally:
            if os.path.lexists(path):
                self.remove_tree(path)

    def snapshot_names(self, volume: Volume) -> list[str]:
        """Names of a volume's snapshots on the pool, oldest first."""
        directory = volume.type.snapshots_directory
        if directory is None:
            return []
        try:
            entries = list(os.scandir(self.root / directory / volume.name))
        except FileNotFoundError:
            return []
        return [entry.name for entry in sorted(entries, key=self.age)]

    def age(self, entry: os.DirEntry[str]) -> tuple[float, str]:
        """What orders snapshots by their making."""
        return entry.stat(follow_symlinks=False).st_ctime, entry.name

    def drop_snapshots_directory(self, volume: Volume) -> None:
        """Remove the directory of a volume's snapshots once it is empty."""
        if volume.type.snapshots_directory is None:
            return
        try:
            (self.root / volume.type.snapshots_directory / volume.name).rmdir()
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    # -- volumes --------------------------------------------------------------------------------

    def list_volumes(self, kind: VolumeType) -> Sequence[Volume]:
        found: list[Volume] = []
        names = set(self._entries(kind.directory))
        if kind.snapshots_directory:
            # Snapshots whose volume is gone are listed under it all the same: they are leaks.
            names.update(self._entries(kind.snapshots_directory))
        for name in sorted(names):
            volume = Volume(kind, name)
            if self.has(volume):
                found.append(volume)
            found.extend(volume.at(snapshot) for snapshot in self.snapshot_names(volume))
        return found

    def _entries(self, directory: str) -> Sequence[str]:
        try:
            return os.listdir(self.root / directory)
        except FileNotFoundError:
            return []

    def create_volume(self, volume: Volume, filler: Filler | None = None) -> None:
        path = self.vacant(volume)
        with self.staged() as stage, space_errors(f"Creating {volume}", self.root):
            self.make_tree(stage)
            stage.chmod(volume.mode)
            if volume.type is not VolumeType.IMAGE:
                self.limit_tree(stage, volume.size)
            if volume.content is ContentType.BLOCK:
                make_block_file(stage / BLOCK_FILE, volume.size)
            if filler is not None:
                with space_errors(f"Filling {volume}", stage):
                    filler(stage)
                self.seal(stage, volume)
            stage.rename(path)
        if volume.type is VolumeType.IMAGE:
            self.freeze_tree(path)

    def copy_volume(self, target: Volume, source: Volume, snapshots: Sequence[str] = ()) -> None:
        path, origin = self.vacant(target), self.need(source)
        with contextlib.ExitStack() as undo, space_errors(f"Copying {source}", self.root):
            for name in snapshots:
                self.copy_snapshot(source.parent.at(name), target.at(name))
                undo.callback(self.delete_snapshot, target.at(name))
            with self.staged() as stage:
                self.clone_tree(origin, stage, target.size)
                self.seal(stage, target)
                stage.rename(path)
            undo.pop_all()

    def copy_snapshot(self, source: Volume, target: Volume) -> None:
        """Make one snapshot from another one, or from the state of a volume."""
        origin, path = self.need(source), self.vacant(target)
        try:
            with self.staged() as stage, space_errors(f"Making {target}", self.root):
                self.clone_tree(origin, stage)
                stage.rename(path)
        except BaseException:
            self.drop_snapshots_directory(target)
            raise
        self.freeze_tree(path)

    def delete_volume(self, volume: Volume) -> None:
        for name in self.snapshot_names(volume):
            self.delete_snapshot(volume.at(name))
        self.drop_snapshots_directory(volume)
        self.discard(self.path(volume))

    def discard(self, path: Path) -> None:
        """Take a tree away from its name in one step, then remove it."""
        with self.staged() as stage:
            try:
                path.rename(stage)
            except FileNotFoundError:
                return

    def rename_volume(self, volume: Volume, name: str) -> None:
        path, renamed = self.need(volume), volume.renamed(name)
        target = self.vacant(renamed)
        directory = volume.type.snapshots_directory
        with contextlib.ExitStack() as undo:
            if directory is not None and self.snapshot_names(volume):
                old, new = self.root / directory / volume.name, self.root / directory / name
                old.rename(new)
                undo.callback(new.rename, old)
            path.rename(target)
            undo.pop_all()

    def mount_volume(self, volume: Volume) -> Path:
        return self.need(volume)

    def unmount_volume(self, volume: Volume) -> bool:
        return False

    def set_quota(self, volume: Volume, size: int) -> bool:
        path = self.need(volume)
        if volume.content is ContentType.BLOCK:
            grow_block_file(path / BLOCK_FILE, size, volume)
            return True
        return self.limit_tree(path, size)

    @abstractmethod
    def limit_tree(self, path: Path, size: int) -> bool:
        """Limit a tree to ``size`` bytes, 0 for no limit; False where that cannot be enforced."""

    # -- snapshots ------------------------------------------------------------------------------

    def create_snapshot(self, snapshot: Volume) -> None:
        self.copy_snapshot(snapshot.parent, snapshot)

    def delete_snapshot(self, snapshot: Volume) -> None:
        self.discard(self.path(snapshot))
        self.drop_snapshots_directory(snapshot)

    def rename_snapshot(self, snapshot: Volume, name: str) -> None:
        self.need(snapshot).rename(self.vacant(snapshot.at(name)))

    def mount_snapshot(self, snapshot: Volume) -> Path:
        return self.need(snapshot)

    def unmount_snapshot(self, snapshot: Volume) -> bool:
        return False


def make_block_file(path: Path, size: int) -> None:
    """A sparse file for a volume of content type block."""
    with path.open("xb") as file:
        file.truncate(size or parse_size(DEFAULT_BLOCK_SIZE))
    path.chmod(0o600)


def grow_block_file(path: Path, size: int, volume: Volume) -> None:
    """Resize a block volume, which can only grow."""
    if size < path.stat().st_size:
        raise BadRequest(f"Cannot shrink {volume}: block volumes can only grow")
    os.truncate(path, size)
