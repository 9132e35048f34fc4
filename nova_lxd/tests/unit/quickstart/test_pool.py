# SPDX-License-Identifier: Apache-2.0
"""How large the storage pool of a cloud's host is made, and what Nova may hand out of it."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import pytest
from cloud import lxd, tenancy
from cloud.context import Cloud
from cloud.controller import SupervisorController
from cloud.layout import Layout
from cloud.settings import Settings

FREE = 30 * 2**30


def cloud_with(pool: str, state: Path) -> Cloud:
    layout = Layout(state)
    return Cloud(layout, Settings(pool=pool), SupervisorController(layout))


def test_directory_is_as_large_as_the_disk(tmp_path: Path) -> None:
    cloud = cloud_with("dir", tmp_path)
    assert lxd.pool_config(cloud) == {}
    assert lxd.disk_ratio(cloud) == 1.0


def test_pool_in_a_file_holds_the_servers_of_the_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def usage(path: Path) -> types.SimpleNamespace:
        asked.append(path)
        return types.SimpleNamespace(free=FREE)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    cloud = cloud_with("btrfs", tmp_path)
    assert lxd.pool_config(cloud) == {"size": "24GiB"}
    assert asked == [tmp_path]
    # On a disk with 30 GiB free tempest's two workers, each with four servers, find a host.
    assert 24 * lxd.disk_ratio(cloud) >= 8 * tenancy.FLAVORS["c1.medium"][2]
