# SPDX-License-Identifier: Apache-2.0
"""What the driver dir does beside the contract of all drivers."""

from __future__ import annotations

import subprocess
from pathlib import Path

from nova_lxd.lxd.storage.drivers.dir import Dir
from nova_lxd.lxd.storage.drivers.generic import STAGING
from nova_lxd.tests.functional.storage import backends


def _pool_on(directory: Path, disk: Path) -> Dir:
    return Dir("p", directory / "pool", directory / "disks", {"source": str(disk)})


def test_ext4_spreads_new_trees_over_the_disk(tmp_path: Path) -> None:
    with backends.loop_mounted(tmp_path, "ext4") as mounted:
        disk = mounted / "pool"
        disk.mkdir()
        driver = _pool_on(tmp_path, disk)
        driver.create()
        try:
            told = subprocess.run(
                ["lsattr", "-d", driver.root / STAGING], check=True, capture_output=True, text=True
            )
            assert "T" in told.stdout.split()[0]
        finally:
            driver.delete()


def test_other_file_systems_do_without(tmp_path: Path) -> None:
    with backends.loop_mounted(tmp_path, "btrfs") as mounted:
        disk = mounted / "pool"
        disk.mkdir()
        driver = _pool_on(tmp_path, disk)
        driver.create()
        assert (driver.root / STAGING).is_dir()
        driver.delete()
