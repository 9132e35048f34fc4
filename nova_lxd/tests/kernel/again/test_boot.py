# SPDX-License-Identifier: Apache-2.0
"""After the machine went down with running containers and came up again."""

from __future__ import annotations

import pytest

from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.kernel.conftest import COMMAND
from nova_lxd.tests.kernel.host import LXD_DIR, SERVICES, journal, lxc, query, run, unit


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    """The daemon as systemd starts it at boot."""
    run(COMMAND, "waitready", "--timeout=120")
    for name in SERVICES:
        wait_for(lambda n=name: unit(n, "ActiveState")["ActiveState"] == "active", name)


def test_shutdown_stopped_containers_cleanly() -> None:
    for name in ("a-early", "b-late", "c-not"):
        assert lxc("file", "pull", f"{name}/stopped", "-") == "clean\n"


def test_shutdown_kept_the_order_of_stopping() -> None:
    trees = LXD_DIR / "storage-pools/default/containers"
    early, late = (trees / name / "rootfs/stopped" for name in ("a-early", "b-late"))
    assert late.stat().st_mtime_ns < early.stat().st_mtime_ns


def test_containers_went_down_before_the_daemon() -> None:
    said = journal("-b", "-1", "-u", SERVICES[0], "-u", SERVICES[1]).splitlines()
    first = max(n for n, line in enumerate(said) if f"Stopped {SERVICES[1]}" in line)
    last = max(n for n, line in enumerate(said) if f"Stopped {SERVICES[0]}" in line)
    assert first < last


def test_boot_started_what_ran() -> None:
    found = {item["name"]: item["status"] for item in query("/1.0/instances?recursion=1")}
    assert found == {"a-early": "Running", "b-late": "Running", "c-not": "Stopped"}


def test_nothing_went_wrong_in_the_daemon() -> None:
    for name in SERVICES:
        said = journal("-u", name)
        assert said.count("Started ") >= 2 or said.count("Finished ") >= 2, said[-2000:]
        assert "Traceback" not in said


def test_what_was_started_can_be_deleted() -> None:
    lxc("delete", "-f", "a-early", "b-late", "c-not")
    assert query("/1.0/instances") == []
