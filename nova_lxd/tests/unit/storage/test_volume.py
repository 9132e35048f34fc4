# SPDX-License-Identifier: Apache-2.0
"""Names and places of volumes are LXD's."""

from __future__ import annotations

from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.storage.drivers.dir import Dir
from nova_lxd.lxd.storage.drivers.generic import pool_directories
from nova_lxd.lxd.storage.volume import Volume, VolumeType, custom_name


@pytest.mark.parametrize(
    ("volume", "place"),
    [
        (Volume(VolumeType.CONTAINER, "c1"), "containers/c1"),
        (Volume(VolumeType.CONTAINER, "proj_c1", "s0"), "containers-snapshots/proj_c1/s0"),
        (Volume(VolumeType.CUSTOM, custom_name("default", "data")), "custom/default_data"),
        (
            Volume(VolumeType.CUSTOM, custom_name("p", "data"), "daily"),
            "custom-snapshots/p_data/daily",
        ),
        (Volume(VolumeType.IMAGE, "ab" * 32), "images/" + "ab" * 32),
    ],
)
def test_place_below_the_pool(volume: Volume, place: str, tmp_path: Path) -> None:
    driver = Dir("pool", tmp_path / "pool", tmp_path / "disks", {})
    assert driver.path(volume) == tmp_path / "pool" / place
    assert place.split("/")[0] in pool_directories()


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "/a", "a\0", "x" * 256])
def test_names_that_could_lead_elsewhere(name: str) -> None:
    with pytest.raises(BadRequest):
        Volume(VolumeType.CONTAINER, name)
    with pytest.raises(BadRequest):
        Volume(VolumeType.CUSTOM, "ok", name)


def test_relations() -> None:
    volume = Volume(VolumeType.CONTAINER, "c1", config={"size": "1GB"})
    snapshot = volume.at("s0")
    assert (snapshot.full_name, str(snapshot)) == ("c1/s0", "container volume 'c1/s0'")
    assert snapshot.parent == volume
    assert snapshot.parent.size == 10**9
    assert volume.renamed("c2").at("s0").full_name == "c2/s0"
    with pytest.raises(BadRequest):
        Volume(VolumeType.IMAGE, "f").at("s0")
