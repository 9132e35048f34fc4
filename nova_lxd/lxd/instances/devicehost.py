# SPDX-License-Identifier: Apache-2.0
"""Storage and networks as devices see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.devices.interface import CustomVolume
from nova_lxd.lxd.errors import NotFound
from nova_lxd.lxd.network.interface import Network
from nova_lxd.lxd.paths import DEFAULT_PROJECT

if TYPE_CHECKING:
    from nova_lxd.lxd.network.service import Networks
    from nova_lxd.lxd.storage.service import Storage


class DeviceVolumes:
    """:class:`nova_lxd.lxd.devices.interface.Volumes` on the daemon's storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def pool_exists(self, pool: str) -> bool:
        return self._storage.pool_exists(pool)

    def custom_volume(self, project: str, pool: str, volume: str) -> CustomVolume:
        return self._storage.volumes.custom_volume(project, pool, volume)

    def mount_custom(self, project: str, pool: str, volume: str, user: str) -> CustomVolume:
        return self._storage.volumes.mount_custom(project, pool, volume, user)

    def unmount_custom(self, project: str, pool: str, volume: str, user: str) -> None:
        self._storage.volumes.unmount_custom(project, pool, volume, user)

    def set_root_size(self, project: str, instance: str, pool: str, size: str) -> None:
        self._storage.set_root_size(project, instance, pool, size)


class DeviceNetworks:
    """:class:`nova_lxd.lxd.devices.interface.Networks` on the daemon's networks."""

    def __init__(self, db: Database, networks: Networks) -> None:
        self._db = db
        self._networks = networks

    def find(self, project: str, name: str) -> Network | None:
        found = db_projects.get(self._db, project)
        where = project if found and found.feature("networks") else DEFAULT_PROJECT
        try:
            return self._networks.get(name, where)
        except NotFound:
            return None
