# SPDX-License-Identifier: Apache-2.0
"""Control groups in both dialects, on trees of files (real containers: functional tests)."""

from __future__ import annotations

from pathlib import Path

import pytest

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host import cgroup_settings as settings
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.host.cgroups import Cgroup, CpuTime, DiskIo, Hierarchy, Layout, Memory

ALL = frozenset({"cpu", "cpuset", "io", "memory", "pids", "hugetlb"})


@pytest.fixture
def v2(tmp_path: Path) -> Cgroup:
    """A container on a host with cgroup v2 only."""
    layout = Layout({}, Hierarchy(tmp_path, "/"), ALL)
    (tmp_path / "d" / "lxc.payload.c1").mkdir(parents=True)
    return Cgroup(layout, {"": "/d/lxc.payload.c1"})


def put(group: Cgroup, controller: str, **files: str) -> None:
    for name, value in files.items():
        (group.path(controller) / name.replace("__", ".")).write_text(value)


def test_v2_usage(v2: Cgroup) -> None:
    put(
        v2,
        "memory",
        cpu__stat="usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
        memory__current="1000\n",
        memory__peak="2000\n",
        memory__max="max\n",
        memory__events="low 0\noom 1\noom_kill 3\n",
        memory__stat="anon 5\nfile 6\n",
        pids__current="4\n",
        io__stat="254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    )
    (v2.path("memory") / "cpuset.cpus.effective").write_text("0-1\n")
    assert v2.cpu_seconds() == 2.5
    assert v2.cpu_times() == [CpuTime("", 2.0, 0.5)]
    assert v2.memory() == Memory(1000, 2000, -1, -1), "this kernel does not count swap"
    assert (v2.memory_limit(), v2.oom_kills(), v2.tasks(), v2.cpus()) == (-1, 3, 4, "0-1")
    assert v2.memory_stat() == {"anon": 5, "file": 6}
    assert v2.disk_io() == [DiskIo("254:0", 1, 2, 3, 4)]


def test_v2_leaves_out_what_the_kernel_lacks(tmp_path: Path) -> None:
    layout = Layout({}, Hierarchy(tmp_path, "/"), ALL)
    wanted = [settings.memory_limit(4096), *settings.disk_weight(500)]

    def names() -> list[str]:
        return [name.removeprefix("lxc.cgroup2.") for name, _ in layout.config_items(wanted)]

    # Nothing is known yet, and no weight is better than a start that fails.
    assert names() == ["memory.max", "memory.swap.max"]
    group = tmp_path / "system.slice"
    group.mkdir()
    (group / "cgroup.controllers").write_text("io memory\n")
    assert names() == ["memory.max"]
    for name in ("memory.swap.max", "io.bfq.weight"):
        (group / name).write_text("0\n")
    assert names() == ["memory.max", "memory.swap.max", "io.bfq.weight"]


def test_v2_limits(v2: Cgroup) -> None:
    v2.apply(
        [
            settings.memory_limit(4096),
            settings.processes(-1),
            settings.cpu_quota(-1),
            settings.cpu_shares(2048),
            settings.swappiness(10),
            *settings.disk_throttles([settings.Throttle("8:0", read_bytes=5, writes=6)]),
        ]
    )
    top = v2.path("memory")
    found = {path.name: path.read_text() for path in top.iterdir()}
    assert found == {
        "memory.max": "4096",
        "memory.swap.max": "0",
        "pids.max": "max",
        "cpu.max": "max 100000",
        "cpu.weight": "200",
        "io.max": "8:0 rbps=5 wbps=max riops=max wiops=6",
    }


def test_v2_freezer(v2: Cgroup) -> None:
    put(v2, "freezer", cgroup__events="populated 1\nfrozen 1\n", cgroup__freeze="0")
    v2.freeze()
    assert (v2.path("freezer") / "cgroup.freeze").read_text() == "1"
    put(v2, "freezer", cgroup__events="populated 1\nfrozen 0\n")
    with pytest.raises(InternalError, match="do not stop"):
        v2.freeze(timeout=0.01)
    assert (v2.path("freezer") / "cgroup.freeze").read_text() == "0", "and it runs on"


def test_v2_container_that_has_ended(v2: Cgroup) -> None:
    v2.path("memory").rmdir()
    for read in (v2.memory, v2.tasks, v2.cpu_seconds):
        with pytest.raises(FileNotFoundError):
            read()


def test_config_items_of_each_dialect(tmp_path: Path) -> None:
    wishes = [settings.memory_limit(10), settings.cpu_shares(512), settings.processes(3)]
    v2 = Layout({}, Hierarchy(tmp_path, "/"), ALL)
    assert v2.config_items(wishes) == [
        ("lxc.cgroup2.memory.max", "10"),
        ("lxc.cgroup2.memory.swap.max", "0"),
        ("lxc.cgroup2.cpu.weight", "50"),
        ("lxc.cgroup2.pids.max", "3"),
    ]
    tree = Hierarchy(tmp_path, "/")
    v1 = Layout({"memory": tree, "cpu": tree})
    assert v1.config_items(wishes) == [
        ("lxc.cgroup.memory.limit_in_bytes", "10"),
        ("lxc.cgroup.cpu.shares", "512"),
    ], "no swap accounting, no pids controller"
    (tmp_path / "memory.memsw.limit_in_bytes").touch()
    assert v1.config_items(wishes)[:3] == [
        ("lxc.cgroup.memory.memsw.limit_in_bytes", "-1"),
        ("lxc.cgroup.memory.limit_in_bytes", "10"),
        ("lxc.cgroup.memory.memsw.limit_in_bytes", "10"),
    ]


def test_devices_of_each_dialect(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/")
    for layout, key in (
        (Layout({"devices": tree}), "lxc.cgroup.devices"),
        (Layout({}, tree, ALL), "lxc.cgroup2.devices"),
    ):
        items = layout.config_items([settings.devices(["c 1:3 rwm"])])
        assert items == [(f"{key}.deny", "a"), (f"{key}.allow", "c 1:3 rwm")]


def test_versions(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/")
    hybrid = Layout({"memory": tree}, tree, frozenset({"hugetlb"}))
    versions = [hybrid.version(c) for c in ("memory", "hugetlb", "pids", "freezer")]
    assert versions == [1, 2, 0, 2]
    assert Layout().version("freezer") == 0


def test_a_group_seen_through_a_mount_of_a_part(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/docker/abc")
    assert tree.path("/docker/abc/lxc.payload.c1") == tmp_path / "lxc.payload.c1"
    assert Hierarchy(tmp_path, "/").path("/x/y") == tmp_path / "x" / "y"


def test_removal_keeps_what_is_in_use(tmp_path: Path) -> None:
    layout = Layout({}, Hierarchy(tmp_path, "/"), ALL)
    (tmp_path / "d" / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "d" / "used").mkdir()
    (tmp_path / "d" / "used" / "cgroup.procs").write_text("1\n")
    layout.remove("d")
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["used"]
    layout.remove("never-there")
    assert layout.processes("d") == {1}


def test_detection_reads_the_mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io\n")
    text = (
        "31 1 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 1 0:29 /me /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        f"33 1 0:30 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
        "34 1 0:31 / /mnt/with\\040space rw shared:1 - ext4 /dev/vda rw\n"
    )
    entries = list(mounts.parse_mountinfo(text))
    assert entries[3].target == "/mnt/with space"
    assert entries[3].propagation == "shared:1"
    monkeypatch.setattr(mounts, "mounts", lambda: entries)
    layout = Layout.detect()
    assert layout.version("cpuacct") == 1
    assert layout.v1["systemd"].root == "/me"
    assert layout.version("io") == 2
    assert "rw" not in layout.v1
