# SPDX-License-Identifier: Apache-2.0
"""The storage pools of this server: the database, the opened pools, and who uses them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from nova_lxd.lxd.db import profiles as db_profiles
from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.db.storage import PoolRow
from nova_lxd.lxd.devices.interface import CustomVolume
from nova_lxd.lxd.errors import (
    BadRequest,
    Conflict,
    InternalError,
    LXDError,
    NotFound,
    attempting,
)
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.paths import Paths, storage_name
from nova_lxd.lxd.schema.configkeys import given
from nova_lxd.lxd.schema.sizes import parse_size
from nova_lxd.lxd.storage.custom import CustomVolumes
from nova_lxd.lxd.storage.drivers.interface import Driver
from nova_lxd.lxd.storage.drivers.load import supported
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.volume import Volume, VolumeType
from nova_lxd.lxd.warnings import Warnings

LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_WARNING = "Storage pool unavailable"


class StorageUsers(Protocol):
    """What storage needs to know of instances."""

    def disk_users(self) -> dict[tuple[str, str, str], list[str]]:
        """URLs of the instances and profiles whose disks use each custom volume.

        Keys are (pool, project of the volume, volume).
        """


class Storage:
    """The pools; their custom volumes are :attr:`volumes`."""

    def __init__(self, db: Database, paths: Paths, events: Events, warnings: Warnings) -> None:
        self._db = db
        self._paths = paths
        self._events = events
        self._warnings = warnings
        self._locks = KeyedLocks()
        self._pools: dict[str, Pool] = {}
        self._users: StorageUsers | None = None
        self.volumes = CustomVolumes(db, events, self.get, self._disk_users)

    def bind_users(self, users: StorageUsers) -> None:
        """Wire the instances in; they are constructed after the storage."""
        self._users = users

    def _disk_users(self) -> dict[tuple[str, str, str], list[str]]:
        return self._users.disk_users() if self._users else {}

    def start(self) -> None:
        """Mount every pool; one that fails becomes a warning, not a failed start-up."""
        for row in self.rows():
            url = f"/1.0/storage-pools/{row.name}"
            try:
                pool = Pool(self._paths, row.name, row.driver, row.config)
                if row.status == "Pending":  # the daemon died while it was made
                    pool.delete()
                    db_storage.delete_pool(self._db, row.name)
                    continue
                pool.mount()
                self._pools[row.name] = pool
            except (LXDError, OSError) as exc:
                LOG.error("Mounting storage pool %s failed: %s", row.name, exc)
                self._warnings.warn(_WARNING, str(exc), entity_url=url, severity="high")
            else:
                self._warnings.resolve(_WARNING, entity_url=url)
                self.volumes.reconcile(row.name)

    def stop(self) -> None:
        """Release every pool; no instance runs any more."""
        for name, pool in self._pools.items():
            try:
                pool.unmount()
            except (LXDError, OSError) as exc:
                LOG.error("Releasing storage pool %s failed: %s", name, exc)

    # -- look-ups ------------------------------------------------------------------------------

    def rows(self) -> list[PoolRow]:
        """The stored pools; one that could not be mounted has status Unavailable."""
        return db_storage.pools(self._db)

    def row(self, name: str) -> PoolRow:
        """:raises NotFound: there is no such pool."""
        row = db_storage.pool(self._db, name)
        if row is None:
            raise NotFound("Storage pool not found")
        return row

    def status(self, row: PoolRow) -> str:
        """What the API shows as the pool's status."""
        return "Created" if row.name in self._pools else "Unavailable"

    def get(self, name: str) -> Pool:
        """The mounted pool.

        :raises NotFound: there is no such pool.
        :raises InternalError: the pool could not be mounted at start-up.
        """
        pool = self._pools.get(name)
        if pool is None:
            self.row(name)
            raise InternalError(
                f"Using storage pool {name!r} failed: it is unavailable; see the warnings, mend "
                "its source and restart the daemon"
            )
        return pool

    def pool_exists(self, pool: str) -> bool:
        return db_storage.pool(self._db, pool) is not None

    def pool_names(self) -> Sequence[str]:
        """The pools that are mounted."""
        return sorted(self._pools)

    def driver(self, pool: str) -> Driver:
        return self.get(pool).driver

    def drivers_in_use(self) -> list[tuple[str, str]]:
        """Name and version of each driver that a pool uses."""
        return sorted({(p.info.name, p.info.version) for p in self._pools.values()})

    def supported_drivers(self) -> list[dict[str, Any]]:
        """The drivers that work on this host, as the environment shows them."""
        return [
            {"Name": info.name, "Version": info.version, "Remote": info.remote}
            for info in supported()
        ]

    def used_by(self, pool: str) -> list[str]:
        """URLs of the images, instances, profiles and custom volumes on a pool."""
        urls: list[str] = []
        images = self.image_volumes(pool)
        urls += [
            with_project(f"/1.0/images/{fingerprint}", project)
            for fingerprint, project in images.items()
        ]
        urls += [
            with_project(f"/1.0/instances/{name}", project)
            for project, name, _created in db_storage.instances_on(self._db, pool)
        ]
        urls += [
            with_project(f"/1.0/instances/{name}/snapshots/{snapshot}", project)
            for project, name, snapshot, _ in db_storage.instance_snapshots_on(self._db, pool)
        ]
        urls += self._profiles_using(pool)
        for row in db_storage.volumes(self._db, pool):
            url = f"/1.0/storage-pools/{pool}/volumes/custom/{row.name}"
            urls.append(with_project(url, row.project))
            urls += [
                with_project(f"{url}/snapshots/{snapshot.name}", row.project)
                for snapshot in db_storage.volume_snapshots(self._db, row.id)
            ]
        return sorted(urls)

    def _profiles_using(self, pool: str) -> list[str]:
        return [
            with_project(f"/1.0/profiles/{profile.name}", profile.project)
            for profile in db_profiles.get_all(self._db)
            if any(
                device.get("type") == "disk" and device.get("pool") == pool
                for device in profile.devices.values()
            )
        ]

    def image_volumes(self, pool: str) -> dict[str, str]:
        """The cached images of a pool, with one project that has each."""
        if pool not in self._pools:
            return {}
        found = [v.name for v in self.driver(pool).list_volumes(VolumeType.IMAGE)]
        return db_storage.image_projects(self._db, found)

    # -- what disks need (devices.interface.Volumes) --------------------------------------------

    def set_root_size(self, project: str, instance: str, pool: str, size: str) -> None:
        """Give an instance's root a size, unlimited when empty."""
        volume = Volume(VolumeType.CONTAINER, storage_name(project, instance))
        self.get(pool).set_quota(volume, parse_size(size))

    def custom_volume(self, project: str, pool: str, volume: str) -> CustomVolume:
        return self.volumes.custom_volume(project, pool, volume)

    def mount_custom(self, project: str, pool: str, volume: str, user: str) -> CustomVolume:
        return self.volumes.mount_custom(project, pool, volume, user)

    def unmount_custom(self, project: str, pool: str, volume: str, user: str) -> None:
        self.volumes.unmount_custom(project, pool, volume, user)

    # -- life ----------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        driver: str,
        description: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
    ) -> None:
        """Make a pool.

        :raises BadRequest: bad name, driver or config.  :raises Conflict: the name is taken.
        """
        if not _NAME.match(name):
            raise BadRequest(
                f"Invalid storage pool name {name[:64]!r}: use up to 63 letters, digits, dots, "
                "dashes and underscores"
            )
        if not driver:
            raise BadRequest("No driver provided")
        with (
            attempting(f"Creating storage pool {name!r}"),
            self._locks.hold(name),
            ExitStack() as undo,
        ):
            if db_storage.pool(self._db, name):
                raise Conflict("Storage pool already exists")
            values = given(config)
            pool = Pool(self._paths, name, driver, values)
            db_storage.create_pool(self._db, name, driver, description, values, "Pending")
            undo.callback(db_storage.delete_pool, self._db, name)
            filled = pool.create()
            undo.callback(pool.delete)
            db_storage.update_pool(self._db, name, description, filled, "Created")
            self._pools[name] = pool
            undo.pop_all()
        self._announce("storage-pool-created", name, requestor)

    def update(
        self,
        name: str,
        description: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
    ) -> None:
        """:raises BadRequest: a key is invalid or cannot be changed."""
        with attempting(f"Changing storage pool {name!r}"), self._locks.hold(name):
            values = given(config)
            stored = self.get(name).update(values)
            db_storage.update_pool(self._db, name, description, stored, "Created")
        self._announce("storage-pool-updated", name, requestor)

    def delete(self, name: str, requestor: Mapping[str, Any]) -> None:
        """Remove a pool on which nothing but cached images is.

        :raises BadRequest: it is in use.  :raises NotFound: no such pool.
        """
        with attempting(f"Deleting storage pool {name!r}"), self._locks.hold(name):
            row = self.row(name)
            if [url for url in self.used_by(name) if not url.startswith("/1.0/images/")]:
                raise BadRequest("The storage pool is currently in use")
            pool = self._pools.get(name) or Pool(self._paths, name, row.driver, row.config)
            db_storage.update_pool(self._db, name, row.description, row.config, "Pending")
            pool.delete()
            self._pools.pop(name, None)
            db_storage.delete_pool(self._db, name)
        self._announce("storage-pool-deleted", name, requestor)

    def _announce(self, action: str, name: str, requestor: Mapping[str, Any]) -> None:
        self._events.lifecycle(action, f"/1.0/storage-pools/{name}", "", requestor=requestor)
