# SPDX-License-Identifier: Apache-2.0
"""Limits and usage of real containers."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from nova_lxd.lxd.host import cgroup_settings as settings
from nova_lxd.lxd.host import cgroups
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.tests.functional.host.conftest import Lab, make_node

MIB = 1 << 20


def needs(*controllers: str) -> None:
    for controller in controllers:
        if cgroups.layout().version(controller) == 0:
            pytest.skip(f"this host has no {controller} control group")


def test_limits_at_start(lab: Lab) -> None:
    needs("memory", "pids", "cpu", "cpuset")
    wishes = [
        settings.memory_limit(64 * MIB),
        settings.processes(100),
        settings.cpu_set("0"),
        settings.cpu_shares(512),
        settings.cpu_quota(20000),
    ]
    running = lab.start("c1", *cgroups.layout().config_items(wishes))
    group = Cgroup.of(running.init, "c1")
    assert group.memory_limit() == 64 * MIB
    assert group.cpus() == "0"
    assert group.read("pids", "pids.max", "pids.max") == "100"
    if group.layout.version("cpu") == 1:
        assert group.read("cpu", "cpu.shares", "") == "512"
        assert group.read("cpu", "cpu.cfs_quota_us", "") == "20000"
    else:
        assert group.read("cpu", "", "cpu.weight") == "50"
        assert group.read("cpu", "", "cpu.max") == "20000 100000"


def test_limits_while_it_runs(lab: Lab) -> None:
    needs("memory", "pids")
    running = lab.start("c1")
    group = Cgroup.of(running.init, "c1")
    assert group.memory_limit() == -1
    for limit in (64 * MIB, 256 * MIB, 32 * MIB, -1, 128 * MIB):
        group.apply([settings.memory_limit(limit)])
        assert group.memory_limit() == limit
    group.apply([settings.processes(7), settings.cpu_quota(-1), settings.cpu_set("0")])
    assert group.read("pids", "pids.max", "pids.max") == "7"
    group.apply([settings.processes(-1)])
    assert group.read("pids", "pids.max", "pids.max") == "max"


def test_more_memory_in_use_than_the_limit_is_told(lab: Lab) -> None:
    needs("memory")
    running = lab.start("c1")
    lab.exec("c1", "mount", "-t", "tmpfs", "none", "/tmp")
    lab.exec("c1", "dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=32")
    group = Cgroup.of(running.init, "c1")
    if group.layout.version("memory") == 2:
        pytest.skip("cgroup v2 kills instead of refusing")
    with pytest.raises(OSError) as error:
        group.apply([settings.memory_limit(8 * MIB)])
    assert error.value.errno == errno.EBUSY
    assert "memory." in str(error.value.filename)


def test_usage(lab: Lab) -> None:
    needs("memory", "pids")
    running = lab.start("c1")
    group = Cgroup.of(running.init, "c1")
    before = group.cpu_seconds()
    lab.exec("c1", "dd", "if=/dev/zero", "of=/dev/null", "bs=1M", "count=2000")
    assert group.cpu_seconds() > before
    assert sum(t.user + t.system for t in group.cpu_times()) == pytest.approx(
        group.cpu_seconds(), rel=0.5, abs=0.05
    )
    memory = group.memory()
    assert 0 < memory.usage <= memory.peak
    assert memory.swap >= 0
    assert "cache" in group.memory_stat() or "file" in group.memory_stat()
    assert group.oom_kills() == 0
    assert group.tasks() >= 1
    assert running.init in group.processes()
    for disk in group.disk_io():
        assert disk.device.count(":") == 1 and disk.read_bytes >= 0


def test_memory_hog_is_killed_and_counted(lab: Lab) -> None:
    needs("memory")
    limit = cgroups.layout().config_items([settings.memory_limit(16 * MIB)])
    running = lab.start("c1", *limit)
    code, _ = lab.exec("c1", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    assert code == 128 + 9
    assert Cgroup.of(running.init, "c1").oom_kills() >= 1


def test_freeze_and_thaw(lab: Lab) -> None:
    running = lab.start("c1")
    group = Cgroup.of(running.init, "c1")
    assert not group.frozen
    started = time.monotonic()
    group.freeze()
    assert time.monotonic() - started < 1
    assert group.frozen
    group.freeze()
    group.thaw()
    assert not group.frozen
    assert lab.exec("c1", "true")[0] == 0


def test_device_list(lab: Lab) -> None:
    needs("devices")
    items = cgroups.layout().config_items([settings.devices()])
    running = lab.start("c1", *items)
    assert lab.exec("c1", "dd", "if=/dev/zero", "of=/dev/null", "count=1")[0] == 0
    group = Cgroup.of(running.init, "c1")
    if group.layout.version("devices") == 1:
        listed = group.read("devices", "devices.list", "").splitlines()
        assert sorted(listed) == sorted(settings.DEVICES_ALLOWED)
        group.apply([settings.device("c 10:237 rwm", allow=True)])
        assert "c 10:237 rwm" in group.read("devices", "devices.list", "")
        group.apply([settings.device("c 10:237 rwm", allow=False)])
        assert "c 10:237 rwm" not in group.read("devices", "devices.list", "")


def test_device_refused_allowed_and_refused_again(lab: Lab) -> None:
    """In both dialects: a device that is not on the list."""
    needs("devices")
    device = Path("/dev/loop-control")
    if not device.exists():
        pytest.skip("this host has no /dev/loop-control")
    number = device.stat().st_rdev
    rule = f"c {os.major(number)}:{os.minor(number)} rwm"
    entry = make_node(lab.top / "node", number, lab.root_ids, 0o666)
    lab.start("c1", *cgroups.layout().config_items([settings.devices()]), entry)

    def readable() -> bool:
        return lab.exec("c1", "sh", "-c", ": < /dev/mine")[0] == 0

    assert not readable()
    lab.zygote.set_cgroup_item("c1", lab.lxcpath, "devices.allow", rule)
    assert readable()
    lab.zygote.set_cgroup_item("c1", lab.lxcpath, "devices.deny", rule)
    assert not readable()


def test_ended_container_is_told(lab: Lab) -> None:
    running = lab.start("c1")
    group = Cgroup.of(running.init, "c1")
    running.kill()
    with pytest.raises(FileNotFoundError):
        group.cpu_seconds()
    with pytest.raises(FileNotFoundError):
        group.thaw()
    with pytest.raises(ProcessLookupError):
        Cgroup.of(running.init, "c1")
