# SPDX-License-Identifier: Apache-2.0
"""Backups of custom volumes: a volume with its snapshots as one archive, and back.

The archive is LXD's: ``backup/index.yaml``, ``backup/volume-snapshots/NAME``, ``backup/volume``.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db import volume_backups
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.storage import VolumeRow, VolumeSnapshotRow
from nova_lxd.lxd.db.volume_backups import VolumeBackup
from nova_lxd.lxd.errors import BadRequest, Conflict, NotFound
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.images.decompress import decompressed
from nova_lxd.lxd.images.formats import detect
from nova_lxd.lxd.images.metadata import load_yaml
from nova_lxd.lxd.images.tarstream import TarStream
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.storage import pack
from nova_lxd.lxd.storage.copying import equal_tree
from nova_lxd.lxd.storage.custom import CustomVolumes, check_name
from nova_lxd.lxd.storage.custom_intents import volume_of
from nova_lxd.lxd.storage.inside import need_directory
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.unpack import Limits, unpack_archive
from nova_lxd.lxd.storage.volume import ContentType, Volume

_INDEX = "backup/index.yaml"
_MAX_INDEX = 4 * 1024 * 1024
_MAX_SCANNED = 1 << 30
_DIRECTORY = "custom"


@dataclass(frozen=True)
class VolumeIndex:
    """A backup's description, read from a file that nobody vouches for."""

    name: str
    description: str
    config: dict[str, str]
    snapshots: list[str] = field(default_factory=list)


class VolumeBackups:
    """Makes, lists, removes and restores backups of custom volumes."""

    def __init__(
        self,
        db: Database,
        paths: Paths,
        volumes: CustomVolumes,
        pool: Callable[[str], Pool],
        algorithm: Callable[[], str],
    ) -> None:
        self._db = db
        self._paths = paths
        self._volumes = volumes
        self._pool = pool
        self._algorithm = algorithm

    def all(self, row: VolumeRow) -> list[VolumeBackup]:
        return volume_backups.of_volume(self._db, row.id)

    def get(self, row: VolumeRow, name: str) -> VolumeBackup:
        """:raises NotFound: the volume has no such backup."""
        for found in self.all(row):
            if found.name == name:
                return found
        raise NotFound("Storage volume backup not found")

    def archive(self, row: VolumeRow, name: str) -> Path:
        """Where the archive of a backup is."""
        stored = f"{row.pool}_{volume_of(row).name}"
        return self._paths.backups / _DIRECTORY / stored / name

    def free_name(self, row: VolumeRow) -> str:
        """LXD's ``backupN`` with the next free number."""
        taken = {backup.name for backup in self.all(row)}
        number = 0
        while f"backup{number}" in taken:
            number += 1
        return f"backup{number}"

    def check(self, row: VolumeRow, name: str, compression: str) -> str:
        """The compression algorithm that is meant.

        :raises BadRequest: bad name, unknown compression, or a block volume.
        """
        check_name(name)
        if row.content_type != ContentType.FILESYSTEM.value:
            raise BadRequest("Backing up failed: block volumes cannot be exported; copy them")
        algorithm = compression or self._algorithm()
        if pack.check_algorithm(algorithm)[0] == pack.SQUASHFS:
            raise BadRequest("Backing up failed: squashfs is no compression for backups; use gzip")
        return algorithm

    def make(
        self, row: VolumeRow, name: str, expires_at: float, volume_only: bool, compression: str
    ) -> None:
        """Write the archive of a volume, which may be in use, and record it.

        :raises Conflict: the name is taken.
        """
        algorithm = self.check(row, name, compression)
        path = self.archive(row, name)
        with self._volumes.hold(row, "backup"), ExitStack() as undo:
            if any(backup.name == name for backup in self.all(row)):
                raise Conflict(f'Backup "{name}" already exists')
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = path.with_name(f".{name}.new")
            undo.callback(partial.unlink, missing_ok=True)
            with partial.open("wb") as out:
                self._write(row, volume_only, algorithm, out)
            partial.rename(path)
            undo.callback(path.unlink, missing_ok=True)
            record = VolumeBackup(row.id, name, time.time(), expires_at, volume_only)
            try:
                volume_backups.create(self._db, record)
            except sqlite3.IntegrityError as exc:
                raise Conflict(f'Backup "{name}" already exists') from exc
            undo.pop_all()

    def _write(self, row: VolumeRow, volume_only: bool, algorithm: str, out: IO[bytes]) -> None:
        """Assemble the archive's tree out of bind mounts and pack it."""
        pool = self._pool(row.pool)
        volume = volume_of(row)
        snapshots = [] if volume_only else self._volumes.snapshots(row)
        with ExitStack() as stack:
            scratch = tempfile.TemporaryDirectory(prefix=".export-", dir=self._paths.backups)
            top = Path(stack.enter_context(scratch))
            (top / "backup").mkdir()
            (top / _INDEX).write_bytes(_dump(row, pool.driver.name, snapshots))
            for snapshot in snapshots:
                source = stack.enter_context(pool.mounted(volume.at(snapshot.name)))
                _bind(stack, source, top / "backup/volume-snapshots" / snapshot.name)
            _bind(stack, stack.enter_context(pool.mounted(volume)), top / "backup/volume")
            entries = [_INDEX, "backup/volume"]
            if snapshots:
                entries.insert(1, "backup/volume-snapshots")
            pack.write([pack.Source(top, tuple(entries))], algorithm, out)

    def rename(self, row: VolumeRow, name: str, new: str) -> None:
        """:raises Conflict: the new name is taken."""
        check_name(new)
        with self._volumes.hold(row, "rename backup"):
            self.get(row, name)
            if any(backup.name == new for backup in self.all(row)):
                raise Conflict(f'Backup "{new}" already exists')
            self.archive(row, name).rename(self.archive(row, new))
            volume_backups.rename(self._db, row.id, name, new)

    def delete(self, row: VolumeRow, name: str) -> None:
        """Remove a backup and its archive."""
        with self._volumes.hold(row, "delete backup"):
            self.get(row, name)
            self.archive(row, name).unlink(missing_ok=True)
            volume_backups.delete(self._db, row.id, name)

    def sweep(self) -> None:
        """At start-up: remove archives that no record knows (killed, or of deleted volumes)."""
        known = {
            self.archive(row, backup.name)
            for row in db_storage.volumes(self._db)
            for backup in self.all(row)
        }
        for path in (self._paths.backups / _DIRECTORY).glob("*/*"):
            if path not in known:
                path.unlink()

    def restore(
        self,
        path: Path,
        index: VolumeIndex,
        pool: str,
        project: str,
        name: str,
        requestor: Mapping[str, Any],
    ) -> VolumeRow:
        """Make a volume of a backup's archive, with its snapshots.

        :raises BadRequest: the archive holds what it may not.  :raises Conflict: it exists.
        """
        for snapshot in index.snapshots:
            check_name(snapshot)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=self._paths.backups) as scratch:
            tree = Path(scratch, "tree")
            tree.mkdir()
            unpack_archive(path, tree, Limits())

            def fill(opened: Pool, volume: Volume) -> None:
                with ExitStack() as undo:
                    opened.create_volume(volume)
                    undo.callback(opened.driver.delete_volume, volume)
                    target = opened.driver.mount_volume(volume)
                    for snapshot in index.snapshots:
                        _fill(target, tree, f"volume-snapshots/{snapshot}")
                        opened.driver.create_snapshot(volume.at(snapshot))
                    _fill(target, tree, "volume")
                    undo.pop_all()

            row = self._volumes.create(
                pool, project, name, index.description, "", index.config, requestor, fill
            )
        for snapshot in index.snapshots:
            db_storage.put_volume_snapshot(
                self._db, VolumeSnapshotRow(row.id, snapshot, "", row.config, time.time(), 0.0)
            )
        return row


def _bind(stack: ExitStack, source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    mounts.bind(source, target, readonly=True)
    stack.callback(mounts.unmount, target)


def _fill(target: Path, tree: Path, part: str) -> None:
    equal_tree(need_directory(tree, f"backup/{part}", "Importing the backup"), target)


def _time(seconds: float) -> str:
    """RFC 3339, as real LXD reads it."""
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _dump(row: VolumeRow, driver: str, snapshots: list[VolumeSnapshotRow]) -> bytes:
    volume = {
        "config": dict(row.config),
        "description": row.description,
        "name": row.name,
        "type": "custom",
        "used_by": [],
        "location": "none",
        "content_type": row.content_type,
        "project": row.project,
        "created_at": _time(row.created_at),
    }
    described = [
        {
            "description": snapshot.description,
            # Real LXD reads it without looking whether it is there.
            "expires_at": _time(snapshot.expires_at),
            "name": snapshot.name,
            "config": dict(snapshot.config),
            "content_type": row.content_type,
            "created_at": _time(snapshot.created_at),
        }
        for snapshot in snapshots
    ]
    index = {
        "name": row.name,
        "backend": driver,
        "pool": row.pool,
        "snapshots": [snapshot.name for snapshot in snapshots],
        "optimized": False,
        "optimized_header": False,
        "type": "custom",
        "config": {"volume": volume, "volume_snapshots": described},
    }
    return yaml.safe_dump(index, sort_keys=False).encode()


def read_index(path: Path) -> VolumeIndex:
    """The index of a volume backup's archive.

    :raises BadRequest: the file is no backup of a custom volume.
    """
    with decompressed(path, detect(path)) as stream:
        tar = TarStream(stream, _MAX_SCANNED)
        for member in tar:
            if member.name.removeprefix("./") == _INDEX:
                return _parse(load_yaml(tar.read(member, _MAX_INDEX)))
    raise BadRequest(f"Importing the backup failed: it has no {_INDEX}")


def _parse(loaded: Any) -> VolumeIndex:
    if not isinstance(loaded, dict) or loaded.get("type") != "custom":
        raise BadRequest("Importing the backup failed: it is not the backup of a custom volume")
    if str(loaded.get("optimized", "false")).lower() == "true":
        raise BadRequest(
            "Importing the backup failed: it is optimised for another storage driver; export it "
            "without --optimized-storage"
        )
    config = loaded.get("config")
    volume = config.get("volume") if isinstance(config, dict) else None
    volume = volume if isinstance(volume, dict) else {}
    keys = volume.get("config")
    names = loaded.get("snapshots")
    return VolumeIndex(
        str(loaded.get("name", "")),
        str(volume.get("description", "")),
        {str(k): str(v) for k, v in keys.items() if not str(k).startswith("volatile.")}
        if isinstance(keys, dict)
        else {},
        [str(name) for name in names] if isinstance(names, list) else [],
    )
