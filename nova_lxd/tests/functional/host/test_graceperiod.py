# SPDX-License-Identifier: Apache-2.0
"""Grace periods that are begun ahead of time change nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.host import cgroups, graceperiod
from nova_lxd.lxd.host.graceperiod import GracePeriod

OWN = Path("/proc/self/cgroup")


@pytest.fixture
def groups() -> Iterator[str]:
    """A new group of one hierarchy that we are in, as a daemon is in its unit's."""
    layout = cgroups.layout()
    tree = next(iter(layout.v1.values()), layout.unified)
    assert tree is not None
    before = OWN.read_text()
    path = tree.mount / f"grace-{threading.get_native_id()}"
    path.mkdir()
    try:
        (path / "cgroup.procs").write_text("0")
        yield OWN.read_text()
    finally:
        for line in before.splitlines():
            _, names, group = line.split(":", 2)
            if layout.v1.get(names.split(",")[0].removeprefix("name="), layout.unified) is tree:
                (tree.path(group) / "cgroup.procs").write_text("0")
        path.rmdir()
    assert OWN.read_text() == before


def test_it_stays_in_its_groups(groups: str) -> None:
    graceperiod.stay()
    assert OWN.read_text() == groups


def test_move_after_it_need_not_wait(groups: str) -> None:
    waits = []
    for _ in range(5):
        time.sleep(0.1)
        graceperiod.stay()
        began = time.perf_counter()
        graceperiod.stay()
        waits.append(time.perf_counter() - began)
    assert min(waits) < 0.002


def test_requests_go_on_where_groups_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    called = threading.Event()

    def refuse() -> None:
        called.set()
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(graceperiod, "stay", refuse)
    grace = GracePeriod()
    grace.open()
    grace.begin()
    assert called.wait(5)
    grace.begin()
    grace.close()
