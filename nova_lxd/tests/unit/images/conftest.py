# SPDX-License-Identifier: Apache-2.0
"""An image service on a temporary directory, with pools that are plain directories."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import Conflict
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.images.importer import Wanted
from nova_lxd.lxd.images.receive import RawReceiver
from nova_lxd.lxd.images.service import Images
from nova_lxd.lxd.operations import Operations
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.storage.drivers.interface import Driver, Filler, Info
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.volume import Volume, VolumeType


class DirectoryDriver:
    """Just enough of a driver for image volumes; counts what it makes."""

    info = Info("dir", "1", optimized_images=True)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made = 0
        self.slow = threading.Event()
        self.slow.set()

    def has(self, volume: Volume) -> bool:
        return (self.root / volume.name).exists()

    def create_volume(self, volume: Volume, filler: Filler | None = None) -> None:
        if self.has(volume):
            raise Conflict("exists")
        staged = self.root / f".{volume.name}"
        staged.mkdir()
        assert filler is not None
        try:
            filler(staged)
        except BaseException:
            staged.rmdir()
            raise
        self.slow.wait(10)
        staged.rename(self.root / volume.name)
        self.made += 1

    def delete_volume(self, volume: Volume) -> None:
        path = self.root / volume.name
        if path.exists():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()

    def list_volumes(self, kind: VolumeType) -> list[Volume]:
        return [Volume(kind, path.name) for path in self.root.iterdir()]


class Pools:
    """One pool, named default: the real Pool on a driver of ours."""

    def __init__(self, root: Path, paths: Paths) -> None:
        root.mkdir()
        self.default = DirectoryDriver(root)
        self._pool = Pool(paths, "default", "dir", {})
        self._pool.driver = cast(Driver, self.default)

    def pool_names(self) -> list[str]:
        return ["default"]

    def get(self, name: str) -> Pool:
        assert name == "default"
        return self._pool


class Settings(dict[str, str]):
    """Server configuration with the defaults of the keys that images read."""

    DEFAULTS = {
        "images.auto_update_interval": "6",
        "images.auto_update_cached": "true",
        "images.remote_cache_expiry": "10",
        "images.compression_algorithm": "gzip",
    }

    def get(self, key: str) -> str:  # type: ignore[override]
        return super().get(key, self.DEFAULTS.get(key, ""))


def unpack(image: Path, rootfs: Path | None, target: Path) -> None:
    (target / "unpacked").write_text(f"{image.name} {rootfs and rootfs.name}")


class Daemon:
    """The parts that an image service needs."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.root = root
        self.executor = ThreadPoolExecutor(4)
        self.paths = Paths(root / "lxd")
        self.db = Database(self.paths.database)
        self.events = Events(loop)
        self.operations = Operations(loop, self.executor, self.events)
        self.pools = Pools(root / "pool", self.paths)
        self.settings = Settings()
        self.lifecycle: list[dict[str, Any]] = []
        self.images = self.start()

    def start(self) -> Images:
        """The service as after a (re)start of the daemon."""
        images = Images(
            self.paths, self.db, self.events, self.operations, self.pools, self.settings, unpack
        )
        images.start()
        return images

    def add(self, data: bytes, **wanted: Any) -> Image:
        """Import a unified image."""
        with self.images.store.staging() as staged:
            sink = RawReceiver(staged, "image.tar.gz")
            sink.feed(data)
            sink.finish()
            return self.images.importer.admit(staged, Wanted(**{"project": "default", **wanted}))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.paths.images.iterdir())


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    made = Daemon(tmp_path, asyncio.get_running_loop())
    record: Callable[..., None] = made.events.lifecycle

    def lifecycle(action: str, source: str, project: str, **more: Any) -> None:
        made.lifecycle.append({"action": action, "source": source, "project": project, **more})
        record(action, source, project, **more)

    made.events.lifecycle = lifecycle  # type: ignore[method-assign]
    yield made
    made.images.close()
    made.executor.shutdown()
    made.db.close()


@pytest.fixture
def images(daemon: Daemon) -> Images:
    return daemon.images
