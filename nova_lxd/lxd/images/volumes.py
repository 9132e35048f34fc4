# SPDX-License-Identifier: Apache-2.0
"""Image volumes: an image unpacked once on a pool, for instances to be cloned from."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from nova_lxd.lxd.errors import LXDError, NotFound
from nova_lxd.lxd.images.store import Store
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.storage.drivers.interface import Driver, Filler
from nova_lxd.lxd.storage.volume import Volume, VolumeType

LOG = logging.getLogger(__name__)

#: Unpacks (image or its metadata, root of a split image or None) into an empty directory.
Unpack = Callable[[Path, Path | None, Path], None]


class Pools(Protocol):
    """The storage pools, as far as images need them."""

    def pool_names(self) -> Sequence[str]:
        """Every pool of this server."""

    def driver(self, pool: str) -> Driver:
        """The pool's driver, mounted and ready.

        :raises NotFound: there is no such pool.
        """


class ImageVolumes:
    """Makes, hands out and removes image volumes; safe to call from many threads."""

    def __init__(self, store: Store, pools: Pools, unpack: Unpack) -> None:
        self._store = store
        self._pools = pools
        self._unpack = unpack
        self._users: dict[tuple[str, str], int] = {}
        self._removing: set[tuple[str, str]] = set()
        self._making = KeyedLocks()
        self._changed = threading.Condition()

    def filler(self, fingerprint: str) -> Filler:
        """What fills a new volume with the image: metadata.yaml, templates and rootfs.

        :raises NotFound: the store has no such image.
        """
        path = self._store.path(fingerprint)
        if not path.exists():
            raise NotFound(f"Unpacking image {fingerprint} failed: its file is gone")
        rootfs = self._store.rootfs(fingerprint)
        return lambda target: self._unpack(path, rootfs, target)

    def ensure(self, pool: str, fingerprint: str) -> Volume:
        """The image's volume on the pool, made when it is not there; callers at once wait for one.

        :raises BadRequest: the image cannot be unpacked.
        :raises NoSpace: the pool is full.
        """
        with self.hold(pool, fingerprint) as volume:
            return volume

    @contextmanager
    def hold(self, pool: str, fingerprint: str) -> Iterator[Volume]:
        """:meth:`ensure` for a block in which the volume will not be removed."""
        key = (pool, fingerprint)
        volume = Volume(VolumeType.IMAGE, fingerprint)
        with self._changed:
            self._changed.wait_for(lambda: key not in self._removing)
            self._users[key] = self._users.get(key, 0) + 1
        try:
            with self._making.hold(key):
                driver = self._pools.driver(pool)
                if not driver.has(volume):
                    LOG.info("Unpacking image %s on pool %s", fingerprint, pool)
                    driver.create_volume(volume, self.filler(fingerprint))
            yield volume
        finally:
            with self._changed:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key]
                self._changed.notify_all()

    def remove(self, fingerprint: str) -> None:
        """Remove the image's volumes from all pools, once nobody clones from them."""
        for pool in self._pools.pool_names():
            with self._sole((pool, fingerprint)):
                self._pools.driver(pool).delete_volume(Volume(VolumeType.IMAGE, fingerprint))

    @contextmanager
    def _sole(self, key: tuple[str, str]) -> Iterator[None]:
        """Keep others from the volume, once those who use it are done."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._users and key not in self._removing)
            self._removing.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._removing.discard(key)
                self._changed.notify_all()

    def sweep(self, known: Collection[str]) -> None:
        """Remove volumes of images that no project has: a killed daemon left them."""
        for pool in self._pools.pool_names():
            try:
                driver = self._pools.driver(pool)
                for volume in driver.list_volumes(VolumeType.IMAGE):
                    if volume.name not in known:
                        LOG.info("Removing image volume %s of pool %s", volume.name, pool)
                        driver.delete_volume(volume)
            except LXDError as exc:  # a pool that is not available is swept another time
                LOG.warning("Sweeping the image volumes of pool %s failed: %s", pool, exc)
