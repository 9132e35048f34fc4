# SPDX-License-Identifier: Apache-2.0
"""What is left when parts are killed or writes fail in the midst of a change: nothing.

For the bundled daemon: real LXD has other processes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.lxd.host.liblxc.running import children
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
    (init,) = children(pid)
    if init_too:  # the monitor must not clean up after it
        os.kill(pid, signal.SIGSTOP)
        os.kill(init, signal.SIGKILL)
        wait_for(lambda: ended(init), "the end of init")
    os.kill(pid, signal.SIGKILL)
    daemon.wait_status(name, "Stopped")
    wait_for(lambda: not groups(daemon, name), f"the end of {name}'s control groups", timeout=10)
    daemon.lxc("start", name)
    assert daemon.exec(name, "echo", "back") == "back"


def test_init_that_is_killed_in_the_midst_of_its_start_keeps_nobody_waiting(
    daemon: Daemon, launch: Launch
) -> None:
    """liblxc's monitor waits for ever for what such an init was to tell it."""
    name = launch(start=False)
    chance = random.Random(7)
    hit = 0
    for _ in range(40):  # at another moment each time
        body = {"action": "start", "timeout": 30}
        operation = daemon.api("PUT", f"/1.0/instances/{name}/state", body).body["operation"]
        hit += kill_first_child(daemon, name, delay=chance.uniform(0, 0.003))
        assert daemon.get(f"{operation}/wait?timeout=20")["status_code"] >= 200
        daemon.wait_status(name, "Stopped")
        wait_for(lambda: not groups(daemon, name), "the end of the control groups", timeout=10)
    assert hit > 10


def kill_first_child(daemon: Daemon, name: str, delay: float) -> bool:
    """Kill the init of a container that is being started; False when it was faster."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        monitor = found_monitor(daemon, name)
        while monitor and not ended(monitor):
            for init in children(monitor):
                time.sleep(delay)
                with suppress(ProcessLookupError):
                    os.kill(init, signal.SIGKILL)
                    return True
    return False


def test_stuck_monitor_of_an_ended_container_is_ended_by_the_next_daemon(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch()
    monitor = found_monitor(daemon, name)
    os.kill(monitor, signal.SIGSTOP)
    os.kill(children(monitor)[0], signal.SIGKILL)
    daemon.restart(signal.SIGKILL)
    assert ended(monitor)
    daemon.wait_status(name, "Running")  # it was to run: the daemon has started it again
    assert daemon.exec(name, "echo", "back") == "back"


def test_stuck_monitor_keeps_neither_exec_nor_stop_waiting(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch()
    monitor = found_monitor(daemon, name)
    os.kill(monitor, signal.SIGSTOP)
    body = {"command": ["/bin/true"], "wait-for-websocket": False, "interactive": False}
    tried = daemon.api("POST", f"/1.0/instances/{name}/exec", body).body["operation"]
    daemon.lxc("stop", "--force", name)
    assert ended(monitor)
    assert daemon.get(f"{tried}/wait?timeout=50")["status"] == "Failure"
    assert not groups(daemon, name)
    daemon.lxc("start", name)
    assert daemon.exec(name, "echo", "back") == "back"


def test_monitor_that_is_killed_in_the_midst_of_a_start_leaves_no_control_group(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch(start=False)
    hit = 0
    for _ in range(8):  # at another moment each time
        body = {"action": "start", "timeout": 30}
        operation = daemon.api("PUT", f"/1.0/instances/{name}/state", body).body["operation"]
        with suppress(AssertionError, ProcessLookupError):  # it was faster
            os.kill(
                wait_for(lambda: found_monitor(daemon, name), "it", interval=0, timeout=2), 9
            )
        if daemon.get(f"{operation}/wait?timeout=20")["status"] == "Success":
            # What has the monitor's title for a moment is also who forks it, and init itself.
            daemon.lxc("stop", "--force", name, check=False)
        else:
            hit += 1
        daemon.wait_status(name, "Stopped")
        wait_for(lambda: not groups(daemon, name), "the end of the control groups", timeout=10)
    assert hit > 0


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


class HalfDone:
    """An instance whose daemon was killed in the midst of a change, for which it left an intent.

    What the daemon would have recorded last is taken back from the database of the dead one.
    """

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._daemon, self.name = daemon, name

    def change(self, config: dict[str, str], devices: dict[str, Any]) -> None:
        """Make the change, and have the daemon die before the record of it."""
        before = self._row()
        body = {"config": config, "devices": devices}
        assert self._daemon.api("PATCH", f"/1.0/instances/{self.name}", body).status == 200
        self._daemon.stop(signal.SIGKILL)
        was, now = json.loads(before["devices"]), json.loads(self._row()["devices"])
        names = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
        intent = [list(config), {name: [was.get(name), now.get(name)] for name in names}]
        self._write(before["config"], before["devices"], f"update:{json.dumps(intent)}")
        self._daemon.start()
        assert self._row()["intent"] == ""

    def _row(self) -> sqlite3.Row:
        with self._open() as db:
            db.row_factory = sqlite3.Row
            found: sqlite3.Row = db.execute(
                "SELECT config, devices, intent FROM instances WHERE name = ?", (self.name,)
            ).fetchone()
        db.close()
        return found

    def _write(self, config: str, devices: str, intent: str) -> None:
        with self._open() as db:
            db.execute(
                "UPDATE instances SET config = ?, devices = ?, intent = ? WHERE name = ?",
                (config, devices, intent, self.name),
            )
        db.close()

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(Paths(self._daemon.lxd_dir).database)

    def guest(self, *command: str) -> str:
        return self._daemon.exec(self.name, *command)


@pytest.fixture
def half_done(daemon: Daemon, launch: Launch) -> HalfDone:
    return HalfDone(daemon, launch())


def test_devices_that_were_not_recorded_when_the_daemon_died_are_taken_back(
    volume: str, half_done: HalfDone, daemon: Daemon
) -> None:
    disk = {"type": "disk", "pool": "default", "source": volume, "path": "/mnt"}
    nic = {"type": "nic", "network": "lxdbr0"}
    half_done.change({}, {"data": disk, "eth1": nic})
    assert "/mnt" not in half_done.guest("cat", "/proc/mounts")
    assert "eth1" not in half_done.guest("ls", "/sys/class/net")
    assert "eth0" in half_done.guest("ls", "/sys/class/net")
    veths = daemon.inside("ip", "-brief", "link", "show", "type", "veth").stdout.splitlines()
    assert len(veths) == 1
    assert daemon.lxc("config", "device", "add", half_done.name, "eth1", "nic", "network=lxdbr0")
    assert "eth1" in half_done.guest("ls", "/sys/class/net")


def test_devices_still_recorded_when_the_daemon_died_are_given_again(
    volume: str, half_done: HalfDone, daemon: Daemon
) -> None:
    daemon.lxc("storage", "volume", "attach", "default", volume, half_done.name, "data", "/mnt")
    half_done.guest("touch", "/mnt/here")
    half_done.change({}, {"data": {"type": "none"}, "eth0": {"type": "none"}})
    assert half_done.guest("ls", "/mnt") == "here"
    assert "eth0" in half_done.guest("ls", "/sys/class/net")
    assert half_done.guest("cat", "/proc/mounts").count(" /mnt ") == 1


def test_limits_that_were_not_recorded_when_the_daemon_died_are_as_before(
    half_done: HalfDone, daemon: Daemon
) -> None:
    daemon.lxc("config", "set", half_done.name, "limits.processes=200")
    half_done.change({"limits.processes": "300"}, {})
    found = [group / "pids.max" for group in groups(daemon, half_done.name)]
    assert "200\n" in [path.read_text() for path in found if path.exists()]
    assert "300\n" not in [path.read_text() for path in found if path.exists()]


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
