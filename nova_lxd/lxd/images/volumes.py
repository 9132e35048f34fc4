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
from nova_lxd.lxd.storage.drivers.interface import Filler
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.volume import Volume, VolumeType

LOG = logging.getLogger(__name__)

#: Unpacks (image or its metadata, root of a split image or None) into an empty directory.
Unpack = Callable[[Path, Path | None, Path], None]


class Pools(Protocol):
    """The storage pools, as far as images need them."""

    def pool_names(self) -> Sequence[str]:
        """The pools that are mounted."""

    def get(self, name: str) -> Pool:
        """One pool.

        :raises NotFound: there is no such pool.
        """


class ImageVolumes:
    """Makes, hands out and removes image volumes; safe to call from many threads."""

    def __init__(self, store: Store, pools: Pools, unpack: Unpack) -> None:
        self._store = store
        self._pools = pools
        self._unpack = unpack
        self._users: dict[str, int] = {}
        self._removing: set[str] = set()
        self._changed = threading.Condition()

    def filler(self, fingerprint: str) -> Filler:
        """What fills a new volume with the image: metadata.yaml, templates and rootfs.

        :raises NotFound: the store has no such image.
        """
        path = self._store.path(fingerprint)
        if not path.exists():
            raise NotFound(f"Unpacking image {fingerprint} failed: its file is gone")
        rootfs = self._store.rootfs(fingerprint)

        def fill(target: Path) -> None:
            with self.using(fingerprint):
                self._unpack(path, rootfs, target)

        return fill

    @contextmanager
    def hold(self, pool: str, fingerprint: str) -> Iterator[Volume]:
        """The image's volume on the pool, made when it is not there; it stays for the block.

        Who comes while it is being made waits for that.

        :raises BadRequest: the image cannot be unpacked.
        :raises NoSpace: the pool is full.
        """
        with self.using(fingerprint):
            yield self._pools.get(pool).ensure_image(fingerprint, self.filler(fingerprint))

    @contextmanager
    def using(self, fingerprint: str) -> Iterator[None]:
        """Run the block while neither the image's files nor its volumes can be removed."""
        with self._changed:
            self._changed.wait_for(lambda: fingerprint not in self._removing)
            self._users[fingerprint] = self._users.get(fingerprint, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._users[fingerprint] -= 1
                if not self._users[fingerprint]:
                    del self._users[fingerprint]
                self._changed.notify_all()

    @contextmanager
    def removing(self, fingerprint: str) -> Iterator[None]:
        """Wait until nobody uses the image, and keep it so for the block."""
        with self._changed:
            self._changed.wait_for(
                lambda: fingerprint not in self._users and fingerprint not in self._removing
            )
            self._removing.add(fingerprint)
        try:
            yield
        finally:
            with self._changed:
                self._removing.discard(fingerprint)
                self._changed.notify_all()

    def remove(self, fingerprint: str) -> None:
        """Remove the image's volumes from all pools, within :meth:`removing`."""
        for pool in self._pools.pool_names():
            self._pools.get(pool).drop_image(fingerprint)

    def sweep(self, known: Collection[str]) -> None:
        """Remove volumes of images that no project has: a killed daemon left them."""
        for name in self._pools.pool_names():
            try:
                pool = self._pools.get(name)
                for volume in pool.driver.list_volumes(VolumeType.IMAGE):
                    if volume.name not in known:
                        LOG.info("Removing image volume %s of pool %s", volume.name, name)
                        pool.drop_image(volume.name)
            except LXDError as exc:  # a pool that is not available is swept another time
                LOG.warning("Sweeping the image volumes of pool %s failed: %s", name, exc)
