# SPDX-License-Identifier: Apache-2.0
"""Limits, figures and the freezer on a host that has cgroup v2 alone."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.kernel.conftest import Launch
from nova_lxd.tests.kernel.host import (
    CGROUPS,
    PATHS,
    cgroup,
    knob,
    lxc,
    query,
    state,
)

MIB = 1024**2


def test_host_has_version_2_alone(service: None) -> None:
    assert (CGROUPS / "cgroup.controllers").exists()
    controllers = (CGROUPS / "cgroup.controllers").read_text(encoding="ascii").split()
    assert {"cpu", "io", "memory", "pids"} <= set(controllers)


def test_groups_are_the_daemons_own(launch: Launch) -> None:
    name = launch()
    group = cgroup(name)
    assert group == CGROUPS / PATHS.cgroup / f"lxc.payload.{name}"
    lxc("stop", "-f", name)
    wait_for(lambda: not group.exists(), "removal of the control group")


def test_memory(launch: Launch) -> None:
    name = launch("-c", "limits.memory=64MiB")
    assert knob(name, "memory.max") == str(64 * MIB)
    lxc("config", "set", name, "limits.memory=10%")
    total = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024  # type: ignore[index]
    assert abs(int(knob(name, "memory.max")) - total // 10) <= 4096
    lxc("config", "set", name, "limits.memory=96MiB", "limits.memory.enforce=soft")
    assert (knob(name, "memory.max"), knob(name, "memory.high")) == ("max", str(96 * MIB))
    lxc("config", "unset", name, "limits.memory")
    assert (knob(name, "memory.max"), knob(name, "memory.high")) == ("max", "max")
    lxc("config", "set", name, "limits.memory.enforce=hard")
    lxc("config", "set", name, "limits.memory=48MiB")
    assert (knob(name, "memory.max"), knob(name, "memory.high")) == (str(48 * MIB), "max")


def test_memory_limit_kills_who_goes_beyond(launch: Launch) -> None:
    name = launch("-c", "limits.memory=32MiB")
    much = "dd if=/dev/zero of=/dev/null bs=80M count=1; echo ended"
    assert "ended" in lxc("exec", name, "--", "sh", "-c", much)
    assert re.search(r"^oom_kill [1-9]", knob(name, "memory.events"), re.M)
    assert state(name)["status"] == "Running"
    used = state(name)["memory"]
    assert 0 < used["usage"] <= 32 * MIB


def test_swap(launch: Launch) -> None:
    name = launch("-c", "limits.memory=64MiB", "-c", "limits.memory.swap=false")
    assert knob(name, "memory.swap.max") == "0"
    lxc("config", "unset", name, "limits.memory")
    assert knob(name, "memory.swap.max") == "max"


def test_processor_time(launch: Launch) -> None:
    name = launch("-c", "limits.cpu.allowance=20ms/100ms", "-c", "limits.cpu.priority=5")
    assert knob(name, "cpu.max") == "20000 100000"
    before, begun = state(name)["cpu"]["usage"], time.monotonic()
    lxc("exec", name, "--", "timeout", "4", "sh", "-c", "while :; do :; done", check=False)
    used = (state(name)["cpu"]["usage"] - before) / 1e9
    assert 0.05 < used < 0.2 * (time.monotonic() - begun) + 0.4
    lxc("config", "set", name, "limits.cpu.allowance=50%")
    assert (knob(name, "cpu.max"), knob(name, "cpu.weight")) == ("max 100000", "49")
    lxc("config", "unset", name, "limits.cpu.allowance")
    lxc("config", "unset", name, "limits.cpu.priority")
    assert knob(name, "cpu.weight") == "100"


def test_number_of_processes(launch: Launch) -> None:
    name = launch("-c", "limits.processes=20")
    assert knob(name, "pids.max") == "20"
    many = "for i in $(seq 40); do sleep 5 & done; wait"
    assert "can't fork" in lxc("exec", name, "--", "sh", "-c", many, check=False)
    lxc("config", "set", name, "limits.processes=200")
    assert knob(name, "pids.max") == "200"
    lxc("config", "unset", name, "limits.processes")
    assert knob(name, "pids.max") == "max"


def test_figures(launch: Launch) -> None:
    name = launch()
    found = state(name)
    assert found["processes"] == int(knob(name, "pids.current")) > 0
    assert found["cpu"]["usage"] > 0
    assert found["memory"]["usage"] > 0
    before = found["cpu"]["usage"]
    lxc("exec", name, "--", "sh", "-c", "for i in $(seq 300); do :; done; sleep 0 & wait")
    assert state(name)["cpu"]["usage"] > before
    metrics = lxc("query", "--raw", "/1.0/metrics")
    for figure in ("cpu_seconds_total", "memory_MemTotal_bytes", "procs_total"):
        assert re.search(rf'^lxd_{figure}{{.*name="{name}".*}} \S+$', metrics, re.M), figure


def test_freeze(launch: Launch) -> None:
    name = launch()
    lxc("pause", name)
    assert state(name)["status"] == "Frozen"
    assert "frozen 1" in knob(name, "cgroup.events")
    lxc("start", name)
    assert state(name)["status"] == "Running"
    assert "frozen 0" in knob(name, "cgroup.events")
    lxc("pause", name)
    lxc("stop", "-f", name)
    assert state(name)["status"] == "Stopped"


def test_devices_are_refused(launch: Launch) -> None:
    name = launch("-c", "security.privileged=true")
    said = lxc(
        "exec", name, "--", "sh", "-c", "mknod /disk b 98 0 && head -c 1 /disk", check=False
    )
    assert "Operation not permitted" in said
    assert lxc("exec", name, "--", "head", "-c", "1", "/dev/zero") == "\0"


def test_device_added_while_it_runs(launch: Launch) -> None:
    name = launch("-c", "security.privileged=true")
    lxc("config", "device", "add", name, "disk", "unix-block", "source=/dev/ubda", "path=/dev/d")
    assert len(lxc("exec", name, "--", "head", "-c", "1", "/dev/d")) == 1
    lxc("config", "device", "remove", name, "disk")
    said = lxc("exec", name, "--", "sh", "-c", "mknod /x b 98 0; head -c 1 /x", check=False)
    assert "Operation not permitted" in said


def test_missing_cpuset_is_said(launch: Launch) -> None:
    if "cpuset" in (CGROUPS / "cgroup.controllers").read_text(encoding="ascii").split():
        pytest.skip("this kernel has the controller")
    name = launch("-c", "limits.cpu=1")
    assert state(name)["status"] == "Running"
    found = {item["type"]: item for item in query("/1.0/warnings?recursion=1")}
    assert "limits.cpu" in found["Couldn't find the CGroup CPUset controller"]["last_message"]
    assert lxc("exec", name, "--", "nproc").strip() == "1"


def test_group_of_a_frozen_guest_can_be_limited(launch: Launch) -> None:
    name = launch()
    lxc("pause", name)
    lxc("config", "set", name, "limits.memory=64MiB", "limits.processes=50")
    assert (knob(name, "memory.max"), knob(name, "pids.max")) == (str(64 * MIB), "50")
    lxc("start", name)
    lxc("stop", "-f", name)


def test_disks(launch: Launch) -> None:
    name = launch("-d", "root,limits.read=5MB", "-d", "root,limits.write=20iops")
    assert "rbps=5000000" in knob(name, "io.max") and "wiops=20" in knob(name, "io.max")
    lxc("config", "device", "set", name, "root", "limits.read=7MB")
    assert "rbps=7000000" in knob(name, "io.max")


def test_priority_of_disks_where_the_kernel_has_none(launch: Launch) -> None:
    name = launch("-c", "limits.disk.priority=5")
    group = cgroup(name)
    weights = [file for file in ("io.weight", "io.bfq.weight") if (group / file).exists()]
    assert state(name)["status"] == "Running"
    lxc("config", "set", name, "limits.disk.priority=7")
    assert [knob(name, file).split()[-1] for file in weights] == ["700"] * len(weights)
