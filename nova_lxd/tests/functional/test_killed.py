# SPDX-License-Identifier: Apache-2.0
"""What is left when parts are killed or writes fail in the midst of a change: nothing.

For the bundled daemon: real LXD has other processes.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nova_lxd.lxd.paths import Paths
from nova_lxd.tests.faults.injectors import no_writes, processes
from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


@pytest.fixture(autouse=True)
def _bundled(backend: str) -> None:
    if backend != "bundled":
        pytest.skip("kills the bundled daemon's processes")


def found_monitor(daemon: Daemon, name: str) -> int:
    """The pid, as seen from here, of a container's monitor; 0 when it has none."""
    for pid, title in processes(daemon):
        if title.startswith("[lxc monitor]") and title.endswith(f" {name}"):
            return pid
    return 0


def ended(pid: int) -> bool:
    """Is it gone, or a zombie whose parent does not look?"""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def groups(daemon: Daemon, name: str) -> list[Path]:
    """The control groups of a container, in every hierarchy."""
    return [p for top in daemon.sandbox.cgroups for p in top.glob(f"**/lxc.*.{name}")]


@pytest.mark.parametrize("init_too", [False, True])
def test_killed_monitor_leaves_no_control_group(
    daemon: Daemon, launch: Launch, init_too: bool
) -> None:
    name = launch()
    assert groups(daemon, name)
    pid = found_monitor(daemon, name)
    (init,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    if init_too:  # the monitor must not clean up after it
        os.kill(pid, signal.SIGSTOP)
        os.kill(int(init), signal.SIGKILL)
        wait_for(lambda: ended(int(init)), "the end of init")
    os.kill(pid, signal.SIGKILL)
    daemon.wait_status(name, "Stopped")
    wait_for(lambda: not groups(daemon, name), f"the end of {name}'s control groups", timeout=10)
    daemon.lxc("start", name)
    assert daemon.exec(name, "echo", "back") == "back"


def test_monitor_that_is_killed_in_the_midst_of_a_start_leaves_no_control_group(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch(start=False)
    for _ in range(8):  # at another moment each time
        body = {"action": "start", "timeout": 30}
        operation = daemon.api("PUT", f"/1.0/instances/{name}/state", body).body["operation"]
        os.kill(wait_for(lambda: found_monitor(daemon, name), "the monitor", interval=0), 9)
        daemon.get(f"{operation}/wait?timeout=60")
        daemon.wait_status(name, "Stopped")
        wait_for(lambda: not groups(daemon, name), "the end of the control groups", timeout=10)


@contextmanager
def unwritable(daemon: Daemon) -> Iterator[None]:
    """Somebody else writes the database, so that the daemon waits at its next write."""
    with sqlite3.connect(Paths(daemon.lxd_dir).database, isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")
    db.close()


def test_a_start_is_on_record_before_anything_is_on_the_host(
    daemon: Daemon, launch: Launch
) -> None:
    """Else nobody would know of a root's mount or of a veth pair when the daemon is killed."""
    name = launch(start=False)

    def traces() -> list[str]:
        """The mount of its root, and veth pairs of the one instance here."""
        mounts = Path(f"/proc/{daemon.pid}/mountinfo").read_text()
        links = daemon.inside("ip", "-brief", "link", "show", "type", "veth").stdout
        return [line for line in mounts.splitlines() if f"/run/{name}/" in line] + links.split()

    with unwritable(daemon):
        daemon.api("PUT", f"/1.0/instances/{name}/state", {"action": "start", "timeout": 30})
        time.sleep(2)  # a start takes a tenth of that
        assert traces() == []
        daemon.stop(signal.SIGKILL)
    daemon.start()
    assert traces() == []
    assert daemon.instance(name)["status"] == "Stopped"


@pytest.fixture
def volume(daemon: Daemon) -> Iterator[str]:
    daemon.lxc("storage", "volume", "create", "default", "data")
    yield "data"
    daemon.lxc("storage", "volume", "delete", "default", "data")


def test_a_device_that_cannot_be_recorded_is_not_there(
    daemon: Daemon, launch: Launch, volume: str
) -> None:
    name = launch()
    disk = {"type": "disk", "pool": "default", "source": volume, "path": "/mnt"}
    undo = no_writes(daemon, random.Random(1))  # type: ignore[arg-type]
    try:
        answer = daemon.api("PATCH", f"/1.0/instances/{name}", {"devices": {"data": disk}})
    finally:
        undo()
    assert answer.status >= 400
    assert "data" not in daemon.instance(name)["devices"]
    assert "/mnt" not in daemon.exec(name, "cat", "/proc/mounts")
    assert list((daemon.lxd_dir / "devices").glob(f"{name}/*")) == []


def test_a_device_is_not_there_when_another_of_the_same_change_fails(
    daemon: Daemon, launch: Launch, volume: str
) -> None:
    name = launch()
    disk = {"type": "disk", "pool": "default", "source": volume, "path": "/mnt"}
    impossible = {"type": "disk", "source": str(daemon.home), "path": "/var/file/x"}
    change = {"devices": {"a": disk, "z": impossible}}
    daemon.exec(name, "sh", "-c", "mkdir -p /var; touch /var/file")
    assert daemon.api("PATCH", f"/1.0/instances/{name}", change).status >= 400
    assert "/mnt" not in daemon.exec(name, "cat", "/proc/mounts")
    assert list((daemon.lxd_dir / "devices").glob(f"{name}/*")) == []


def test_a_creation_that_failed_left_nothing(daemon: Daemon) -> None:
    """Recording that its image was used came last, and could fail."""
    body = {"name": "late", "source": {"type": "image", "alias": "busybox"}}
    operation = daemon.api("POST", "/1.0/instances", body).body["operation"]
    undo = no_writes(daemon, random.Random(1))  # type: ignore[arg-type]
    try:
        done = daemon.get(f"{operation}/wait?timeout=60")
    finally:
        undo()
    daemon.restart()
    there = daemon.api("GET", "/1.0/instances/late").status == 200
    if there:
        daemon.lxc("delete", "late")
    assert there == (done["status"] == "Success")
