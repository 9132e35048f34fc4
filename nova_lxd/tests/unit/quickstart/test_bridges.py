# SPDX-License-Identifier: Apache-2.0
"""Bridges of another cloud on the machine are refused at first, and never taken for ours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cloud import ovn
from cloud.errors import CloudError


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(ovn, "DEVICES", tmp_path / "devices")
    return SimpleNamespace(layout=SimpleNamespace(run=run))


def make_bridge() -> None:
    (ovn.DEVICES / "br-int").mkdir(parents=True)


def test_bridges_of_another_cloud_are_refused_and_not_ours_to_remove(cloud: Any) -> None:
    make_bridge()
    with pytest.raises(CloudError, match="br-int is here already"):
        ovn.refuse_foreign_bridges(cloud)
    assert ovn.bridges_left(cloud) == []


def test_bridges_that_this_cloud_made_are_its_own(cloud: Any) -> None:
    assert ovn.refuse_foreign_bridges(cloud)
    make_bridge()
    assert not ovn.refuse_foreign_bridges(cloud)
    assert ovn.bridges_left(cloud) == ["br-int"]


def test_bridges_made_after_a_boot_that_the_cloud_did_not_see_are_foreign(cloud: Any) -> None:
    assert ovn.refuse_foreign_bridges(cloud)
    (cloud.layout.run / "bridges").write_text("the boot before")
    make_bridge()
    assert ovn.bridges_left(cloud) == []
