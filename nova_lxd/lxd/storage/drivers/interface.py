# SPDX-License-Identifier: Apache-2.0
"""The contract of a storage driver: pools and volumes in, paths and values out.

A driver keeps no record of its own but what is on its pool: callers hold the database and the
locks (one writer per volume; calls about different volumes run at the same time on different
threads).  Every method either does all of its work or undoes it and raises; a volume appears under
its name in one step, so that a killed daemon leaves it whole or absent, and what was half-made is
swept by the next :meth:`Driver.mount`.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from nova_lxd.lxd.storage.volume import ContentType, Volume, VolumeType

#: Fills the given empty directory; what it raises undoes the volume and is passed on.
Filler = Callable[[Path], None]


@dataclass(frozen=True)
class Info:
    """What a driver is and can do; callers branch on this, never on a driver's class."""

    name: str
    version: str
    #: The storage is shared with other servers.
    remote: bool = False
    #: A cached image volume makes creating instances cheaper than unpacking the image.
    optimized_images: bool = False
    #: :meth:`Driver.backup` and :meth:`Driver.restore_backup` exist.
    optimized_backups: bool = False
    #: A copied volume has the inode numbers of its source (CRIU needs that).
    preserves_inodes: bool = False
    #: A consistent copy or snapshot can be taken while the instance runs; else freeze it first.
    running_copy_safe: bool = False
    #: A volume with content type block is a device rather than a file.
    block_devices: bool = False
    #: Snapshots can only be restored from newest to oldest.
    ordered_restore: bool = False


@dataclass(frozen=True)
class Resources:
    """Space and inodes of a pool, in bytes and counts; 0 inodes when they are not limited."""

    space_used: int
    space_total: int
    inodes_used: int
    inodes_total: int


@dataclass(frozen=True)
class MigrationType:
    """One way to send a volume, in the terms of LXD's migration header."""

    name: str  # "rsync", "btrfs", later "zfs"
    features: tuple[str, ...] = ()


class Transport(Protocol):
    """A connection to the other side of a migration: a row of full-duplex streams.

    Both sides call :meth:`stream` in the same order.  The driver shuts down its write side at
    the end of what it sends and closes the socket when it has read the peer's end.
    """

    def stream(self) -> socket.socket:
        """The next stream, a blocking stream socket that the caller owns."""


@dataclass(frozen=True)
class Transfer:
    """What one migration moves.

    ``snapshots`` are names, oldest first; ``refresh`` says that the target exists and only what
    differs is wanted; ``final`` that the instance is stopped and this is the last pass;
    ``bwlimit`` is in bytes per second, 0 for none.  ``finish`` is what the receiver does to each
    tree, snapshots too, once all of it is there (LXD may send trees with shifted ids).
    """

    type: MigrationType
    snapshots: tuple[str, ...] = ()
    refresh: bool = False
    final: bool = False
    bwlimit: int = 0
    finish: Filler | None = None


class Driver(ABC):
    """One pool.

    :param root: the pool's mount point, ``LXD_DIR/storage-pools/POOL``.
    :param disks: the directory for loop files, ``LXD_DIR/disks``.
    :param config: the pool's configuration as stored.
    """

    name: ClassVar[str]

    def __init__(self, pool: str, root: Path, disks: Path, config: Mapping[str, str]) -> None:
        self.pool = pool
        self.root = root
        self.disks = disks
        self.config = dict(config)

    # -- the driver ---------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def probe(cls) -> Info | None:
        """What the driver can do on this host, None when its programs or kernel are missing."""

    @property
    def info(self) -> Info:
        """The result of :meth:`probe` for a driver that is in use."""
        found = type(self).probe()
        if found is None:
            raise RuntimeError(f"Storage driver {self.name} is in use but not available")
        return found

    # -- the pool -----------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def validate(cls, config: Mapping[str, str]) -> None:
        """Refuse a pool configuration the driver cannot serve (BadRequest); touches nothing."""

    @abstractmethod
    def create(self) -> dict[str, str]:
        """Make and mount the pool; returns the configuration with what was filled in.

        Not idempotent: an existing pool or foreign data at the source is a Conflict.
        """

    @abstractmethod
    def delete(self) -> None:
        """Unmount and remove the pool and everything on it; idempotent."""

    @abstractmethod
    def mount(self) -> bool:
        """Make the pool usable and sweep what a killed daemon left half-made; idempotent.

        Returns whether it was not mounted before.  No volume may be in the making.
        """

    @abstractmethod
    def unmount(self) -> bool:
        """Release the pool; False when it was not mounted.  No instance on it may run."""

    @abstractmethod
    def update(self, config: Mapping[str, str]) -> None:
        """Apply a changed configuration (grow the loop file, remount); instances may run."""

    @abstractmethod
    def resources(self) -> Resources:
        """Space and inodes, from the file system's own counters (cheap)."""

    # -- volumes ------------------------------------------------------------------------------

    @abstractmethod
    def path(self, volume: Volume) -> Path:
        """Where the volume is (or would be) found once it is mounted; touches nothing."""

    @abstractmethod
    def has(self, volume: Volume) -> bool:
        """Does the volume or snapshot exist on the pool?"""

    @abstractmethod
    def list_volumes(self, kind: VolumeType) -> Sequence[Volume]:
        """Every volume of a type on the pool, each followed by its snapshots, oldest first."""

    @abstractmethod
    def create_volume(self, volume: Volume, filler: Filler | None = None) -> None:
        """Make a volume, filled by the callback and limited to its configured size.

        Conflict when it exists; nothing is left on failure.  Image volumes become read-only
        where the driver can do so.
        """

    @abstractmethod
    def copy_volume(self, target: Volume, source: Volume, snapshots: Sequence[str] = ()) -> None:
        """Make ``target`` a copy of a volume, snapshot or image of the same pool.

        ``snapshots`` (names, oldest first) of the source are copied too.  Conflict when the target
        exists; nothing is left on failure.  The source's instance may run only if
        ``info.running_copy_safe``.
        """

    @abstractmethod
    def refresh_volume(
        self, target: Volume, source: Volume, snapshots: Sequence[str] = ()
    ) -> None:
        """Make an existing volume equal to ``source`` and add the named snapshots of it.

        The target's instance is stopped.  On failure the target keeps its old or has its new
        content, and snapshots that were added stay.
        """

    @abstractmethod
    def delete_volume(self, volume: Volume) -> None:
        """Remove a volume with its snapshots; idempotent, its instance is stopped."""

    @abstractmethod
    def rename_volume(self, volume: Volume, name: str) -> None:
        """Rename a volume with its snapshots; undone on failure, its instance is stopped."""

    @abstractmethod
    def mount_volume(self, volume: Volume) -> Path:
        """Make a volume usable and return its path; idempotent, NotFound when it is not there."""

    @abstractmethod
    def unmount_volume(self, volume: Volume) -> bool:
        """Release a volume that no instance uses; False when there was nothing to release."""

    @abstractmethod
    def set_quota(self, volume: Volume, size: int) -> bool:
        """Limit a volume to ``size`` bytes, 0 for no limit; its instance may run.

        Returns False, having done nothing, where the pool cannot enforce sizes.
        """

    @abstractmethod
    def enforces_sizes(self) -> bool:
        """Would :meth:`set_quota` on this mounted pool hold?  (Cheap.)"""

    @abstractmethod
    def usage(self, volume: Volume) -> int | None:
        """Bytes that the volume uses, None where the pool does not know that cheaply."""

    @abstractmethod
    def usages(self, kind: VolumeType) -> Mapping[str, int]:
        """Bytes in use by every volume of a type that is known, by name, in one cheap pass."""

    # -- snapshots ----------------------------------------------------------------------------

    @abstractmethod
    def create_snapshot(self, snapshot: Volume) -> None:
        """Snapshot the parent volume as it is now; Conflict when the snapshot exists.

        Its instance may run only if ``info.running_copy_safe``, else it is frozen.
        """

    @abstractmethod
    def delete_snapshot(self, snapshot: Volume) -> None:
        """Remove one snapshot; idempotent, the instance may run."""

    @abstractmethod
    def rename_snapshot(self, snapshot: Volume, name: str) -> None:
        """Rename one snapshot; the instance may run."""

    @abstractmethod
    def restore_snapshot(self, snapshot: Volume) -> None:
        """Make the parent volume's content that of the snapshot; its instance is stopped.

        On failure the volume has its old content.
        """

    @abstractmethod
    def mount_snapshot(self, snapshot: Volume) -> Path:
        """Make a snapshot readable and return its path; idempotent."""

    @abstractmethod
    def unmount_snapshot(self, snapshot: Volume) -> bool:
        """Release a snapshot; False when there was nothing to release."""

    # -- between pools and servers --------------------------------------------------------------

    @abstractmethod
    def migration_types(self, content: ContentType, *, refresh: bool) -> Sequence[MigrationType]:
        """The ways in which a volume can be sent or received, best first."""

    @abstractmethod
    def send(self, volume: Volume, transfer: Transfer, transport: Transport) -> None:
        """Send the snapshots in order, then the volume; the instance may run for a first pass."""

    @abstractmethod
    def receive(self, volume: Volume, transfer: Transfer, transport: Transport) -> None:
        """Make (or with ``refresh`` update) the volume and snapshots from what a peer sends.

        A volume that did not exist before is not there after a failure.
        """

    @abstractmethod
    def backup(self, volume: Volume, parent: str | None, out: int) -> None:
        """Write an optimised stream of a volume or snapshot to a file descriptor.

        ``parent`` names the snapshot that the reader has got already.  BadRequest unless
        ``info.optimized_backups``.
        """

    @abstractmethod
    def restore_backup(self, volume: Volume, source: int) -> None:
        """Make a volume or snapshot from an optimised stream read from a file descriptor.

        Snapshots come oldest first, then the volume.  Nothing is left of it on failure.
        """
