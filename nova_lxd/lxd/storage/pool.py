# SPDX-License-Identifier: Apache-2.0
"""One storage pool as the upper layers use it: checked configuration, defaults and cached images.

The verbs about a single volume are the driver's (``pool.driver``); here stands what needs more
than the driver: validation before it, the image cache, copies between two pools.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.storage.copying import copy_tree, equal_tree
from nova_lxd.lxd.storage.drivers.generic import space_errors
from nova_lxd.lxd.storage.drivers.interface import Driver, Filler, Info, Resources
from nova_lxd.lxd.storage.drivers.load import driver_class
from nova_lxd.lxd.storage.keys import INSTANCE_VOLUME_KEYS, POOL_KEYS, VOLUME_KEYS
from nova_lxd.lxd.storage.volume import ContentType, Volume, VolumeType

_VOLUME_PREFIX = "volume."


def validate_pool(driver: str, config: Mapping[str, str]) -> None:
    """Check a pool's configuration; touches nothing.

    :raises BadRequest: the driver is unknown or unusable here, a key unknown, a value invalid.
    """
    found = driver_class(driver)
    POOL_KEYS[driver].validate(config)
    found.validate(config)


def validate_volume(volume: Volume) -> None:
    """Check the configuration of a volume.

    :raises BadRequest: a key is unknown, or a value invalid.
    """
    custom = volume.type is VolumeType.CUSTOM
    (VOLUME_KEYS if custom else INSTANCE_VOLUME_KEYS).validate(volume.config)
    shifted, unmapped = (volume.config.get(f"security.{k}") for k in ("shifted", "unmapped"))
    if is_true(shifted) and is_true(unmapped):
        raise BadRequest("security.shifted and security.unmapped cannot both be true")


class Pool:
    """One pool.  Thread-safe; callers lock single volumes.

    :param config: the stored configuration.
    :param driver: the name of the driver.
    """

    def __init__(self, paths: Paths, name: str, driver: str, config: Mapping[str, str]) -> None:
        self.name = name
        self.driver: Driver = driver_class(driver)(name, paths.pool(name), paths.disks, config)
        self._lock = threading.Lock()
        self._images: dict[str, threading.Lock] = {}

    @property
    def config(self) -> dict[str, str]:
        """The configuration, with what :meth:`create` filled in."""
        return dict(self.driver.config)

    @property
    def info(self) -> Info:
        return self.driver.info

    # -- the pool -------------------------------------------------------------------------------

    def create(self) -> dict[str, str]:
        """Check the configuration and make the pool; returns the configuration to be stored."""
        validate_pool(self.driver.name, self.config)
        return self.driver.create()

    def mount(self) -> bool:
        """Make the pool usable at start-up and sweep what a killed daemon left half-made."""
        return self.driver.mount()

    def unmount(self) -> bool:
        """Release the pool; no instance on it may run."""
        return self.driver.unmount()

    def delete(self) -> None:
        """Remove the pool and all that is on it; idempotent."""
        self.driver.delete()

    def update(self, config: Mapping[str, str]) -> dict[str, str]:
        """Check and apply a changed configuration; returns the one to be stored.

        The size, and where it came from, are kept when ``config`` leaves them out.
        """
        kept = ("volatile.initial_source", "size")
        wanted = {key: self.config[key] for key in kept if key in self.config} | dict(config)
        POOL_KEYS[self.driver.name].validate(wanted)
        self.driver.update(wanted)
        return self.config

    def resources(self) -> Resources:
        """Space and inodes of the pool."""
        return self.driver.resources()

    # -- volumes --------------------------------------------------------------------------------

    def with_defaults(self, volume: Volume) -> Volume:
        """The volume with the pool's ``volume.*`` defaults for what its own configuration lacks.

        Instances get the default size only; for images, which are kept whole, there is none.
        """
        if volume.type is VolumeType.IMAGE:
            return volume
        defaults = {
            key.removeprefix(_VOLUME_PREFIX): value
            for key, value in self.driver.config.items()
            if key.startswith(_VOLUME_PREFIX) and value
        }
        if volume.type is not VolumeType.CUSTOM:
            defaults = {key: value for key, value in defaults.items() if key == "size"}
        return replace(volume, config=defaults | dict(volume.config))

    def check_size(self, size: int, volume: Volume) -> None:
        """Refuse a size that the pool could never hold; a pool that ignores sizes takes any.

        :raises BadRequest: the size is beyond the whole pool.
        """
        if not size or not self.enforces_sizes(volume):
            return
        total = self.driver.resources().space_total
        if size > total:
            raise BadRequest(
                f"Cannot give {volume} {size} bytes: storage pool '{self.name}' has only {total}"
            )

    def enforces_sizes(self, volume: Volume) -> bool:
        """Would a size limit on this volume hold?"""
        return volume.content is ContentType.BLOCK or self.driver.enforces_sizes()

    def create_volume(self, volume: Volume, filler: Filler | None = None) -> Volume:
        """Make an (empty or filled) volume; returns it with the defaults that apply.

        :raises BadRequest: its configuration is invalid or its size beyond the pool.
        :raises Conflict: it exists.
        :raises NoSpace: the pool, or the volume's own size, is too small for what fills it.
        """
        volume = self.with_defaults(volume)
        validate_volume(volume)
        self.check_size(volume.size, volume)
        self.driver.create_volume(volume, filler)
        return volume

    def set_quota(self, volume: Volume, size: int) -> bool:
        """Limit a volume, 0 for no limit; False when the pool cannot enforce it."""
        self.check_size(size, volume)
        return self.driver.set_quota(volume, size)

    # -- images ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _image_lock(self, fingerprint: str) -> Iterator[None]:
        with self._lock:
            lock = self._images.setdefault(fingerprint, threading.Lock())
        with lock:
            yield

    def ensure_image(self, fingerprint: str, filler: Filler) -> Volume:
        """The cached volume of an image; the first caller unpacks it, others wait for that."""
        volume = Volume(VolumeType.IMAGE, fingerprint)
        with self._image_lock(fingerprint):
            if not self.driver.has(volume):
                self.driver.create_volume(volume, filler)
        return volume

    def drop_image(self, fingerprint: str) -> None:
        """Remove the cached volume of an image; instances made from it stay; idempotent."""
        with self._image_lock(fingerprint):
            self.driver.delete_volume(Volume(VolumeType.IMAGE, fingerprint))
        with self._lock:
            self._images.pop(fingerprint, None)

    def create_from_image(self, volume: Volume, fingerprint: str, filler: Filler) -> Volume:
        """Make an instance's volume from an image, by a clone where the driver can do that.

        Returns the volume with the pool's default size.  ``filler`` unpacks the image when it has
        to be unpacked; errors are those of :meth:`create_volume`.
        """
        volume = self.with_defaults(volume)
        validate_volume(volume)
        self.check_size(volume.size, volume)
        if not self.info.optimized_images:
            self.driver.create_volume(volume, filler)
            return volume
        image = Volume(VolumeType.IMAGE, fingerprint)
        with self._image_lock(fingerprint):
            if not self.driver.has(image):
                self.driver.create_volume(image, filler)
        self.driver.copy_volume(volume, image)
        return volume

    # -- between pools --------------------------------------------------------------------------

    def copy_from(
        self,
        target: Volume,
        origin: Pool,
        source: Volume,
        snapshots: Sequence[str] = (),
        progress: Callable[[str], None] | None = None,
    ) -> Volume:
        """Make ``target`` here a copy of a volume or snapshot of this or another pool.

        :param snapshots: names of the source's snapshots that go along, oldest first.
        :param progress: told the full name of what is being copied.
        """
        target = self.with_defaults(target)
        self.check_size(target.size, target)
        if origin.name == self.name:
            self.driver.copy_volume(target, source, snapshots)
            return target
        sources = [*(source.parent.at(name) for name in snapshots), source]
        with contextlib.ExitStack() as undo:
            # The snapshots pass through the new volume, so that clones share what is common.
            for index, part in enumerate(sources):
                if progress is not None:
                    progress(part.full_name)
                with origin.mounted(part) as tree:
                    if index == 0:
                        self.driver.create_volume(target, partial(copy_tree, tree))
                        undo.callback(self.driver.delete_volume, target)
                    else:
                        self._overwrite(target, tree)
                if index < len(snapshots):
                    self.driver.create_snapshot(target.at(snapshots[index]))
            undo.pop_all()
        return target

    def refresh_from(
        self, target: Volume, origin: Pool, source: Volume, snapshots: Sequence[str] = ()
    ) -> None:
        """Make an existing volume equal to one of this or another pool, adding its snapshots.

        The target's instance is stopped; snapshots that were added stay after a failure.
        """
        if origin.name == self.name:
            self.driver.refresh_volume(target, source, snapshots)
            return
        for part in [*(source.parent.at(name) for name in snapshots), source]:
            with origin.mounted(part) as tree:
                self._overwrite(target, tree)
            if part.snapshot is not None and part != source:
                self.driver.create_snapshot(target.at(part.snapshot))

    def _overwrite(self, target: Volume, tree: Path) -> None:
        with self.mounted(target) as path, space_errors(f"Copying to {target}", path):
            equal_tree(tree, path, self.config.get("rsync.bwlimit", ""))

    @contextlib.contextmanager
    def mounted(self, volume: Volume) -> Iterator[Path]:
        """A volume or snapshot that is usable while the block runs."""
        if volume.snapshot is None:
            yield self.driver.mount_volume(volume)
            return
        path = self.driver.mount_snapshot(volume)
        try:
            yield path
        finally:
            self.driver.unmount_snapshot(volume)
