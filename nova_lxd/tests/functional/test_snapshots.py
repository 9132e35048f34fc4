# SPDX-License-Identifier: Apache-2.0
"""Snapshots on every storage driver: make, restore, rename, copy from, expire, delete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from nova_lxd.tests.functional.conftest import remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


@pytest.fixture(scope="module", params=["dir", "btrfs"])
def pool(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[str]:
    """A pool of each driver."""
    name = f"pool-{request.param}"
    size = ["size=512MiB"] if request.param == "btrfs" else []
    daemon.lxc("storage", "create", name, request.param, *size)
    yield name
    daemon.lxc("storage", "delete", name)


@pytest.fixture
def guest(daemon: Daemon, pool: str) -> Iterator[str]:
    """A running guest on the pool."""
    daemon.lxc("launch", "busybox", "guest", "-s", pool)
    yield "guest"
    remove(daemon, "guest")


def test_snapshot_and_restore_of_a_running_guest(daemon: Daemon, guest: str) -> None:
    daemon.exec(guest, "sh", "-c", "echo one > /root/f")
    daemon.lxc("snapshot", guest, "before")
    daemon.exec(guest, "sh", "-c", "echo two > /root/f; touch /root/new; rm /etc/group")
    daemon.lxc("restore", guest, "before")
    assert daemon.status(guest) == "Running"
    assert daemon.exec(guest, "cat", "/root/f") == "one"
    assert daemon.exec(guest, "ls", "/root/new", "/etc/group", check=False) == "/etc/group"


def test_restore_brings_the_configuration_back(daemon: Daemon, guest: str) -> None:
    daemon.lxc("config", "set", guest, "user.v=1")
    daemon.lxc("snapshot", guest, "s")
    daemon.lxc("config", "set", guest, "user.v=2")
    daemon.lxc("restore", guest, "s")
    assert daemon.lxc("config", "get", guest, "user.v").stdout == "1\n"


def test_restored_root_keeps_its_size(daemon: Daemon, pool: str, guest: str) -> None:
    if pool != "pool-btrfs":
        pytest.skip("dir has quotas only where the file system has project quotas")
    daemon.lxc("config", "device", "set", guest, "root", "size=30MiB")
    daemon.lxc("snapshot", guest, "sized")
    daemon.lxc("restore", guest, "sized")
    write = "dd if=/dev/zero of=/big bs=1048576 count=60 && sync"
    done = daemon.lxc("exec", guest, "--", "sh", "-c", write, check=False)
    assert done.returncode != 0, done.stderr


def test_names_and_listing(daemon: Daemon, guest: str) -> None:
    daemon.lxc("snapshot", guest)
    daemon.lxc("snapshot", guest)
    daemon.lxc("snapshot", guest, "named")
    names = [each["name"] for each in daemon.instance_snapshots(guest)]
    assert names == ["snap0", "snap1", "named"]
    assert daemon.lxc("list", guest, "-cS", "-fcsv").stdout == "3\n"
    assert "named" in daemon.lxc("info", guest).stdout
    assert "already" in daemon.refused("snapshot", guest, "named")
    daemon.lxc("snapshot", guest, "named", "--reuse")
    answer = daemon.api("POST", f"/1.0/instances/{guest}/snapshots", {"name": "a/b"})
    assert answer.status == 400


def test_rename_and_delete(daemon: Daemon, guest: str) -> None:
    daemon.lxc("snapshot", guest, "one")
    daemon.lxc("rename", f"{guest}/one", f"{guest}/two")
    assert [each["name"] for each in daemon.instance_snapshots(guest)] == ["two"]
    daemon.lxc("delete", f"{guest}/two")
    assert daemon.instance_snapshots(guest) == []
    assert daemon.refused("delete", f"{guest}/two")
    assert daemon.refused("restore", guest, "two")


def test_new_instance_from_a_snapshot(daemon: Daemon, guest: str) -> None:
    daemon.exec(guest, "sh", "-c", "echo old > /root/f")
    daemon.lxc("snapshot", guest, "s")
    daemon.exec(guest, "sh", "-c", "echo new > /root/f")
    daemon.lxc("copy", f"{guest}/s", "fromsnap")
    try:
        daemon.lxc("start", "fromsnap")
        assert daemon.exec("fromsnap", "cat", "/root/f") == "old"
        assert daemon.instance_snapshots("fromsnap") == []
    finally:
        remove(daemon, "fromsnap")


def test_copy_takes_the_snapshots_along_unless_told(daemon: Daemon, guest: str) -> None:
    daemon.lxc("snapshot", guest, "s")
    daemon.lxc("stop", "-f", guest)
    try:
        daemon.lxc("copy", guest, "whole")
        daemon.lxc("copy", guest, "bare", "--instance-only")
        assert [each["name"] for each in daemon.instance_snapshots("whole")] == ["s"]
        assert daemon.instance_snapshots("bare") == []
    finally:
        remove(daemon, "whole")
        remove(daemon, "bare")


def test_refresh_brings_a_copy_up_to_date(daemon: Daemon, guest: str) -> None:
    daemon.exec(guest, "sh", "-c", "echo 1 > /root/f")
    daemon.lxc("stop", "-f", guest)
    try:
        daemon.lxc("copy", guest, "mirror")
        daemon.lxc("file", "push", "-", f"{guest}/root/f", input="2")
        daemon.lxc("snapshot", guest, "later")
        daemon.lxc("copy", guest, "mirror", "--refresh")
        got = daemon.api("GET", "/1.0/instances/mirror/files?path=/root/f")
        assert got.body == b"2"
        assert [each["name"] for each in daemon.instance_snapshots("mirror")] == ["later"]
    finally:
        remove(daemon, "mirror")


def test_files_of_a_snapshot_are_what_they_were(daemon: Daemon, guest: str) -> None:
    daemon.exec(guest, "sh", "-c", "echo then > /root/f; chown 1000 /root/f; chmod 4755 /root/f")
    daemon.lxc("snapshot", guest, "s")
    daemon.exec(guest, "rm", "/root/f")
    daemon.lxc("restore", guest, "s")
    assert daemon.exec(guest, "stat", "-c", "%a %u", "/root/f") == "4755 1000"


def test_expiry(daemon: Daemon, guest: str) -> None:
    daemon.lxc("config", "set", guest, "snapshots.expiry=2d")
    daemon.lxc("snapshot", guest, "auto")
    daemon.lxc("snapshot", guest, "keep", "--no-expiry")
    auto, keep = daemon.instance_snapshots(guest)
    expires = datetime.fromisoformat(auto["expires_at"].replace("Z", "+00:00")[:19] + "+00:00")
    assert timedelta(days=1, hours=23) < expires - datetime.now(UTC) < timedelta(days=2, hours=1)
    assert keep["expires_at"].startswith("0001-01-01T00:00:00")
    path = f"/1.0/instances/{guest}/snapshots/keep"
    daemon.operate("PUT", path, {"expires_at": "2099-01-02T03:04:05Z"})
    assert daemon.get(path)["expires_at"] == "2099-01-02T03:04:05Z"


def test_snapshot_object(daemon: Daemon, guest: str) -> None:
    daemon.lxc("snapshot", guest, "s")
    snapshot = daemon.get(f"/1.0/instances/{guest}/snapshots/s")
    assert snapshot["name"] == "s" and snapshot["stateful"] is False
    assert snapshot["profiles"] == ["default"]
    assert snapshot["config"]["image.os"] == "busybox"
    assert set(snapshot["expanded_devices"]) == {"eth0", "root"}
    assert daemon.get(f"/1.0/instances/{guest}/snapshots") == [
        f"/1.0/instances/{guest}/snapshots/s"
    ]


def test_stateful_needs_criu(daemon: Daemon, guest: str) -> None:
    assert daemon.refused("snapshot", guest, "s", "--stateful")
    assert daemon.instance_snapshots(guest) == []
    assert daemon.status(guest) == "Running"


def test_move_between_pools(daemon: Daemon, guest: str) -> None:
    daemon.exec(guest, "sh", "-c", "echo here > /root/f")
    daemon.lxc("snapshot", guest, "s")
    daemon.lxc("stop", "-f", guest)
    daemon.lxc("move", guest, "--storage", "default")
    assert daemon.instance(guest)["expanded_devices"]["root"]["pool"] == "default"
    assert [each["name"] for each in daemon.instance_snapshots(guest)] == ["s"]
    daemon.lxc("start", guest)
    assert daemon.exec(guest, "cat", "/root/f") == "here"


def test_scheduled_snapshots(daemon: Daemon, guest: str) -> None:
    assert "Schedule" in daemon.refused("config", "set", guest, "snapshots.schedule=often")
    daemon.lxc("config", "set", guest, "snapshots.schedule=* * * * *")
    daemon.lxc("config", "set", guest, "snapshots.pattern=auto-%d")
    wait_for(
        lambda: [each["name"] for each in daemon.instance_snapshots(guest)][:1] == ["auto-0"],
        "a snapshot of the schedule",
        timeout=75,
        interval=1,
    )


def test_guest_frozen_for_a_snapshot_runs_on_after_a_kill(own: Daemon) -> None:
    """A dir pool's snapshot freezes the guest; the next daemon thaws it, and no user's pause."""
    if own.backend == "lxd":
        pytest.skip("LXD leaves the guest frozen")
    for name in ("busy", "resting"):
        own.lxc("launch", "busybox", name)
    own.lxc("pause", "resting")
    own.exec("busy", "dd", "if=/dev/zero", "of=/root/large", "bs=1M", "count=400")
    note = own.lxd_dir / "run" / "busy" / "paused"
    snapshot = threading.Thread(
        target=own.lxc, args=("snapshot", "busy", "s0"), kwargs={"check": False}
    )
    snapshot.start()
    wait_for(note.exists, "the pause", interval=0.001)
    own.stop(signal.SIGKILL)
    snapshot.join()
    assert note.exists()
    own.start()
    assert own.status("busy") == "Running"
    assert own.exec("busy", "echo", "alive") == "alive"
    assert own.status("resting") == "Frozen"
    assert not note.exists()
    assert own.instance_snapshots("busy") == []
    own.lxc("snapshot", "busy", "s0")
    own.lxc("start", "resting")
    assert own.exec("resting", "echo", "alive") == "alive"
