# SPDX-License-Identifier: Apache-2.0
"""Custom volumes: storage of its own that instances attach as disks (LXD: type ``custom``)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.db.storage import VolumeRow, VolumeSnapshotRow
from nova_lxd.lxd.devices.interface import CustomVolume
from nova_lxd.lxd.errors import BadRequest, Conflict, LXDError, NotFound, attempting
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.locks import ActionLocks
from nova_lxd.lxd.schema.configkeys import given, is_true
from nova_lxd.lxd.schema.sizes import parse_size
from nova_lxd.lxd.storage import custom_intents
from nova_lxd.lxd.storage.custom_intents import volume_of
from nova_lxd.lxd.storage.pool import Pool, validate_volume
from nova_lxd.lxd.storage.volume import ContentType, Volume, VolumeType, custom_name

LOG = logging.getLogger(__name__)
_PATIENCE = 30.0

Key = tuple[str, str, str]  # pool, project, volume


def check_name(name: str) -> None:
    """:raises BadRequest: no name for a volume or snapshot of one."""
    if not name or len(name) > 63 or name.startswith(".") or any(c in name for c in "/\0 \t\n_"):
        raise BadRequest(
            f"Invalid volume name {name[:64]!r}: use up to 63 characters without slash, space or "
            "underscore"
        )


def _content_type(text: str) -> ContentType:
    try:
        return ContentType(text or "filesystem")
    except ValueError as exc:
        raise BadRequest(f"Invalid content type {text[:64]!r}") from exc


class CustomVolumes:
    """The custom volumes of all pools; one action at a time on each."""

    def __init__(
        self,
        db: Database,
        events: Events,
        pool: Callable[[str], Pool],
        users: Callable[[], dict[Key, list[str]]],
    ) -> None:
        self._db = db
        self._events = events
        self._pool = pool
        self._users = users
        self._locks = ActionLocks()
        self._mounted: dict[Key, set[str]] = {}
        self._mounting = threading.Lock()

    def reconcile(self, pool: str) -> None:
        """Finish or undo what a killed daemon had begun on a pool's volumes."""
        driver = self._pool(pool).driver
        for row in db_storage.volumes(self._db, pool):
            try:
                custom_intents.settle(self._db, driver, row)
            except (LXDError, OSError):
                # One broken volume must not keep the daemon from serving the others.
                LOG.exception("Recovering custom volume %s of pool %s failed", row.name, pool)

    # -- look-ups ------------------------------------------------------------------------------

    def all(self, pool: str | None = None) -> list[VolumeRow]:
        return [
            row
            for row in db_storage.volumes(self._db, pool)
            if row.intent != custom_intents.CREATE
        ]

    def get(self, pool: str, project: str, name: str) -> VolumeRow:
        """:raises NotFound: the pool has no such volume in the project."""
        row = db_storage.volume(self._db, pool, project, name)
        if row is None or row.intent == custom_intents.CREATE:
            raise NotFound("Storage volume not found")
        return row

    def used_by(self) -> dict[Key, list[str]]:
        """URLs of the instances and profiles that attach each volume."""
        return self._users()

    def snapshots(self, row: VolumeRow) -> list[VolumeSnapshotRow]:
        return db_storage.volume_snapshots(self._db, row.id)

    def snapshot(self, row: VolumeRow, name: str) -> VolumeSnapshotRow:
        """:raises NotFound: the volume has no such snapshot."""
        for found in self.snapshots(row):
            if found.name == name:
                return found
        raise NotFound("Storage volume snapshot not found")

    def usage(self, row: VolumeRow) -> tuple[int | None, int]:
        """(bytes used or None, bytes allowed or 0)."""
        volume = volume_of(row)
        return self._pool(row.pool).driver.usage(volume), volume.size

    # -- what disks need -----------------------------------------------------------------------

    def custom_volume(self, project: str, pool: str, volume: str) -> CustomVolume:
        """The volume as a disk device needs it; it need not be mounted."""
        row = self.get(pool, project, volume)
        path = self._pool(pool).driver.path(volume_of(row))
        return CustomVolume(path, is_true(row.config.get("security.unmapped")), row.content_type)

    def mount_custom(self, project: str, pool: str, volume: str, user: str) -> CustomVolume:
        """Mount it for one more user; idempotent per user."""
        found = self.custom_volume(project, pool, volume)
        with self._mounting:
            row = self.get(pool, project, volume)
            path = self._pool(pool).driver.mount_volume(volume_of(row))
            self._mounted.setdefault((pool, project, volume), set()).add(user)
        return replace(found, path=path)

    def unmount_custom(self, project: str, pool: str, volume: str, user: str) -> None:
        """End one user's mount; the last one's releases the volume."""
        with self._mounting:
            users = self._mounted.get((pool, project, volume), set())
            users.discard(user)
            if not users:
                self._mounted.pop((pool, project, volume), None)
                row = db_storage.volume(self._db, pool, project, volume)
                if row is not None:
                    self._pool(pool).driver.unmount_volume(volume_of(row))

    # -- life ----------------------------------------------------------------------------------

    def create(
        self,
        pool: str,
        project: str,
        name: str,
        description: str,
        content_type: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
        fill: Callable[[Pool, Volume], None] | None = None,
        snapshots: Sequence[VolumeSnapshotRow] = (),
        replaced: VolumeRow | None = None,
    ) -> VolumeRow:
        """Make a volume, empty unless ``fill`` makes its content and ``snapshots``.

        Once it is there, ``replaced`` counts as half-deleted: a killed daemon leaves one of them.

        :raises BadRequest: bad name, content type or config.  :raises Conflict: it exists.
        """
        check_name(name)
        content = _content_type(content_type)
        opened = self._pool(pool)
        values = given(config)
        stored = custom_name(project, name)
        volume = opened.with_defaults(Volume(VolumeType.CUSTOM, stored, None, content, values))
        validate_volume(volume)
        key = (pool, project, name)
        with (
            attempting(f"Creating volume {name!r}"),
            self._locks.hold(key, "create", f"volume {name!r}"),
            ExitStack() as undo,
        ):
            if db_storage.volume(self._db, pool, project, name):
                raise Conflict("Volume by that name already exists")
            config_now = dict(volume.config)
            row_id = db_storage.create_volume(
                self._db,
                pool,
                project,
                name,
                description,
                content.value,
                config_now,
                custom_intents.CREATE,
            )
            undo.callback(db_storage.delete_volume, self._db, row_id)
            if fill is None:
                opened.create_volume(volume)
            else:
                fill(opened, volume)
            undo.callback(opened.driver.delete_volume, volume)
            for snapshot in snapshots:
                db_storage.put_volume_snapshot(self._db, replace(snapshot, volume_id=row_id))
            with self._db.write():
                db_storage.set_volume_intent(self._db, row_id, "")
                if replaced is not None:
                    db_storage.set_volume_intent(self._db, replaced.id, custom_intents.DELETE)
            undo.pop_all()
        self._announce("storage-volume-created", pool, project, name, requestor)
        return self.get(pool, project, name)

    def copy(
        self,
        source: VolumeRow,
        source_snapshot: str,
        pool: str,
        project: str,
        name: str,
        config: Mapping[str, str],
        with_snapshots: bool,
        requestor: Mapping[str, Any],
        description: str = "",
        *,
        replace_source: bool = False,
    ) -> VolumeRow:
        """Make a volume from another one or one of its snapshots, of any pool."""
        origin = self._pool(source.pool)
        wanted = [] if source_snapshot or not with_snapshots else self.snapshots(source)
        base = volume_of(source)
        content = base.at(source_snapshot) if source_snapshot else base
        if source_snapshot:
            self.snapshot(source, source_snapshot)

        def fill(target_pool: Pool, volume: Volume) -> None:
            target_pool.copy_from(volume, origin, content, [s.name for s in wanted])

        inherited = {k: v for k, v in source.config.items() if not k.startswith("volatile.")}
        with self.hold(source, "copy"):
            return self.create(
                pool,
                project,
                name,
                description or source.description,
                source.content_type,
                {**inherited, **config},
                requestor,
                fill,
                wanted,
                source if replace_source else None,
            )

    def update(
        self,
        row: VolumeRow,
        description: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
    ) -> None:
        """:raises BadRequest: bad config, or a size that the content exceeds."""
        values = given(config)
        volume = replace(volume_of(row), config=values)
        validate_volume(volume)
        with self.hold(row, "update"):
            if values.get("size", "") != row.config.get("size", ""):
                self._pool(row.pool).set_quota(volume, parse_size(values.get("size", "")))
            db_storage.update_volume(self._db, row.id, description, values)
        self._announce("storage-volume-updated", row.pool, row.project, row.name, requestor)

    def rename(self, row: VolumeRow, new: str, requestor: Mapping[str, Any]) -> None:
        """:raises BadRequest: it is in use.  :raises Conflict: the name is taken."""
        check_name(new)
        new_key = (row.pool, row.project, new)
        with (
            self.hold(row, "rename"),
            self._locks.hold(new_key, "rename", f"volume {new!r}"),
            self._intent(row, f"{custom_intents.RENAME}:{new}"),
            ExitStack() as undo,
        ):
            self._refuse_in_use(row)
            if db_storage.volume(self._db, row.pool, row.project, new):
                raise Conflict("Volume by that name already exists")
            driver = self._pool(row.pool).driver
            old_volume, new_stored = volume_of(row), custom_name(row.project, new)
            driver.rename_volume(old_volume, new_stored)
            undo.callback(driver.rename_volume, old_volume.renamed(new_stored), old_volume.name)
            db_storage.rename_volume(self._db, row.id, new)
            undo.pop_all()
        self._announce(
            "storage-volume-renamed", row.pool, row.project, new, requestor, {"old_name": row.name}
        )

    def move(
        self, row: VolumeRow, pool: str, project: str, name: str, requestor: Mapping[str, Any]
    ) -> None:
        """Move a volume with its snapshots to another pool, project or name."""
        if (pool, project) == (row.pool, row.project):
            self.rename(row, name, requestor)
            return
        with self.hold(row, "move"):
            self._refuse_in_use(row)
            self.copy(row, "", pool, project, name, {}, True, requestor, replace_source=True)
            self.delete(row, requestor)

    def delete(self, row: VolumeRow, requestor: Mapping[str, Any]) -> None:
        """:raises BadRequest: an instance or profile uses it."""
        with self.hold(row, "delete"):
            self._refuse_in_use(row)
            db_storage.set_volume_intent(self._db, row.id, custom_intents.DELETE)
            self._pool(row.pool).driver.delete_volume(volume_of(row))
            db_storage.delete_volume(self._db, row.id)
        self._announce("storage-volume-deleted", row.pool, row.project, row.name, requestor)

    def _refuse_in_use(self, row: VolumeRow) -> None:
        if self.used_by().get((row.pool, row.project, row.name)):
            raise BadRequest("The storage volume is still in use")

    @contextmanager
    def hold(self, row: VolumeRow, action: str) -> Iterator[None]:
        """Do ``action`` on a volume, alone.

        :raises NotFound: it was deleted or renamed meanwhile.
        """
        key = (row.pool, row.project, row.name)
        with self._locks.hold(key, action, f"volume {row.name!r}", _PATIENCE):
            if self.get(*key).id != row.id:
                raise NotFound("Storage volume not found")
            with attempting(f"Action {action!r} on volume {row.name!r}"):
                yield

    @contextmanager
    def _intent(self, row: VolumeRow, intent: str) -> Iterator[None]:
        """Have the next daemon settle what the block does, should this one be killed in it."""
        db_storage.set_volume_intent(self._db, row.id, intent)
        try:
            yield
        finally:
            db_storage.set_volume_intent(self._db, row.id, "")

    # -- snapshots -----------------------------------------------------------------------------

    def next_snapshot_name(self, row: VolumeRow) -> str:
        """LXD's ``snapN`` with the next free number."""
        taken = {snapshot.name for snapshot in self.snapshots(row)}
        number = 0
        while f"snap{number}" in taken:
            number += 1
        return f"snap{number}"

    def _require_free(self, row: VolumeRow, name: str) -> None:
        if any(snapshot.name == name for snapshot in self.snapshots(row)):
            raise Conflict("Snapshot by that name already exists")

    def create_snapshot(
        self, row: VolumeRow, name: str, expires_at: float, requestor: Mapping[str, Any]
    ) -> None:
        """:raises Conflict: the name is taken."""
        check_name(name)
        volume = volume_of(row).at(name)
        driver = self._pool(row.pool).driver
        with self.hold(row, "snapshot"):
            self._require_free(row, name)
            intent = f"{custom_intents.CREATE_SNAPSHOT}:{name}"
            with self._intent(row, intent), ExitStack() as undo:
                driver.create_snapshot(volume)
                undo.callback(driver.delete_snapshot, volume)
                new = VolumeSnapshotRow(
                    row.id, name, "", dict(row.config), time.time(), expires_at
                )
                db_storage.put_volume_snapshot(self._db, new)
                undo.pop_all()
        self._announce_snapshot("created", row, name, requestor)

    def update_snapshot(
        self,
        row: VolumeRow,
        name: str,
        description: str,
        expires_at: float,
        requestor: Mapping[str, Any],
    ) -> None:
        """Change a snapshot's description and expiry."""
        snapshot = self.snapshot(row, name)
        new = replace(snapshot, description=description, expires_at=expires_at)
        db_storage.put_volume_snapshot(self._db, new)
        self._announce_snapshot("updated", row, name, requestor)

    def rename_snapshot(
        self, row: VolumeRow, name: str, new: str, requestor: Mapping[str, Any]
    ) -> None:
        """:raises Conflict: the name is taken."""
        check_name(new)
        volume = volume_of(row)
        driver = self._pool(row.pool).driver
        with self.hold(row, "rename snapshot"):
            self.snapshot(row, name)
            self._require_free(row, new)
            intent = f"{custom_intents.RENAME_SNAPSHOT}:{name}/{new}"
            with self._intent(row, intent), ExitStack() as undo:
                driver.rename_snapshot(volume.at(name), new)
                undo.callback(driver.rename_snapshot, volume.at(new), name)
                db_storage.rename_volume_snapshot(self._db, row.id, name, new)
                undo.pop_all()
        self._announce_snapshot("renamed", row, new, requestor)

    def restore_snapshot(self, row: VolumeRow, name: str, requestor: Mapping[str, Any]) -> None:
        """Give the volume the content of a snapshot.

        :raises BadRequest: it is in use.
        """
        with self.hold(row, "restore"):
            self.snapshot(row, name)
            if self._mounted.get((row.pool, row.project, row.name)):
                raise BadRequest(
                    "Cannot restore a custom volume that is used by running instances"
                )
            with self._intent(row, f"{custom_intents.RESTORE}:{name}"):
                self._pool(row.pool).driver.restore_snapshot(volume_of(row).at(name))
        self._announce("storage-volume-restored", row.pool, row.project, row.name, requestor)

    def delete_snapshot(self, row: VolumeRow, name: str, requestor: Mapping[str, Any]) -> None:
        with self.hold(row, "delete snapshot"):
            self.snapshot(row, name)
            with self._intent(row, f"{custom_intents.DELETE_SNAPSHOT}:{name}"):
                self._pool(row.pool).driver.delete_snapshot(volume_of(row).at(name))
                db_storage.delete_volume_snapshot(self._db, row.id, name)
        self._announce_snapshot("deleted", row, name, requestor)

    # -- events --------------------------------------------------------------------------------

    def _announce(
        self,
        action: str,
        pool: str,
        project: str,
        name: str,
        requestor: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
    ) -> None:
        url = with_project(f"/1.0/storage-pools/{pool}/volumes/custom/{name}", project)
        self._events.lifecycle(action, url, project, context=context, requestor=requestor)

    def _announce_snapshot(
        self, verb: str, row: VolumeRow, name: str, requestor: Mapping[str, Any]
    ) -> None:
        url = with_project(
            f"/1.0/storage-pools/{row.pool}/volumes/custom/{row.name}/snapshots/{name}",
            row.project,
        )
        action = f"storage-volume-snapshot-{verb}"
        self._events.lifecycle(action, url, row.project, requestor=requestor)
