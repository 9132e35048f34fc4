# SPDX-License-Identifier: Apache-2.0
"""Configuration of pools and volumes is refused before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.storage.drivers.load import DRIVERS
from nova_lxd.lxd.storage.keys import POOL_KEYS
from nova_lxd.lxd.storage.pool import Pool, validate_pool, validate_volume
from nova_lxd.lxd.storage.volume import Volume, VolumeType


def test_every_driver_has_its_keys() -> None:
    assert set(POOL_KEYS) == set(DRIVERS)


@pytest.mark.parametrize(
    "config",
    [
        {"source": "relative"},
        {"size": "10GB"},
        {"no.such": "1"},
        {"volume.size": "ten"},
        {"volume.no.such": "1"},
        {"rsync.compression": "maybe"},
        {"volume.security.shifted": "maybe"},
        {"source": "/a\0b"},
    ],
)
def test_bad_dir_pool(config: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        validate_pool("dir", config)


def test_unknown_driver() -> None:
    with pytest.raises(BadRequest):
        validate_pool("floppy", {})


@pytest.mark.parametrize(
    "config",
    [
        {"size": "-1"},
        {"unknown": "x"},
        {"security.shifted": "true", "security.unmapped": "true"},
        {"snapshots.schedule": "now and then"},
    ],
)
def test_bad_volume(config: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        validate_volume(Volume(VolumeType.CUSTOM, "default_v", config=config))


def test_defaults_of_the_pool(tmp_path: Path) -> None:
    config = {"volume.size": "1GB", "volume.snapshots.expiry": "1d", "user.x": "y"}
    pool = Pool(Paths(tmp_path), "p", "dir", config)
    custom = pool.with_defaults(Volume(VolumeType.CUSTOM, "default_v", config={"size": "2GB"}))
    assert custom.config == {"size": "2GB", "snapshots.expiry": "1d"}
    assert pool.with_defaults(Volume(VolumeType.CONTAINER, "c")).config == {"size": "1GB"}
    assert pool.with_defaults(Volume(VolumeType.IMAGE, "f")).config == {}
