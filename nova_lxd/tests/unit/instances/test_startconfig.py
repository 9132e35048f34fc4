# SPDX-License-Identifier: Apache-2.0
"""liblxc's configuration from an instance's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nova_lxd.lxd.devices.interface import BlockLimit, Mount, Nic, RunConfig
from nova_lxd.lxd.host import cgroups
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.instances import startconfig
from nova_lxd.lxd.instances.startconfig import StartPlan
from nova_lxd.lxd.paths import Paths


@pytest.fixture(autouse=True)
def v2_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unified = cgroups.Hierarchy(tmp_path, "/")
    layout = cgroups.Layout({}, unified, frozenset(("memory", "cpu", "cpuset", "pids", "io")))
    monkeypatch.setattr(cgroups, "layout", lambda: layout)
    monkeypatch.setattr(startconfig, "in_user_namespace", lambda: False)
    monkeypatch.setattr(startconfig, "LXCFS", tmp_path / "lxcfs")


def build(
    tmp_path: Path, config: dict[str, str] | None = None, **fields: Any
) -> list[tuple[str, str]]:
    values: dict[str, Any] = {
        "project": "default",
        "name": "c1",
        "architecture": "x86_64",
        "config": config or {},
        "idmap": Idmap.simple(1_000_000, 65536),
        "runs": (),
        **fields,
    }
    return startconfig.build(Paths(tmp_path), StartPlan(**values))


def values_of(items: list[tuple[str, str]], key: str) -> list[str]:
    return [value for name, value in items if name == key]


def test_unprivileged_by_default(tmp_path: Path) -> None:
    items = build(tmp_path)
    assert values_of(items, "lxc.idmap") == ["u 0 1000000 65536", "g 0 1000000 65536"]
    assert values_of(items, "lxc.rootfs.path") == [f"dir:{tmp_path}/run/c1/rootfs"]
    assert values_of(items, "lxc.uts.name") == ["c1"]
    assert values_of(items, "lxc.net.0.type") == ["empty"]
    assert values_of(items, "lxc.cap.drop") == []
    assert not [name for name, _ in items if ".devices." in name]


def test_privileged_drops_capabilities_and_limits_nodes(tmp_path: Path) -> None:
    items = build(tmp_path, idmap=Idmap(), runs=(RunConfig(device_rules=["c 10:200 rwm"]),))
    assert "sys_module" in values_of(items, "lxc.cap.drop")[0]
    assert values_of(items, "lxc.cgroup2.devices.deny") == ["a"]
    assert "c 10:200 rwm" in values_of(items, "lxc.cgroup2.devices.allow")


def test_other_projects_have_names_of_their_own(tmp_path: Path) -> None:
    items = build(tmp_path, project="p")
    assert values_of(items, "lxc.rootfs.path") == [f"dir:{tmp_path}/run/p_c1/rootfs"]
    assert values_of(items, "lxc.uts.name") == ["c1"]


def test_config_keys(tmp_path: Path) -> None:
    items = build(
        tmp_path,
        {
            "environment.GREETING": "hello world",
            "linux.sysctl.net.ipv4.ip_forward": "1",
            "limits.kernel.nofile": "10:20",
            "limits.memory": "64MiB",
            "limits.processes": "50",
            "security.nesting": "true",
            "raw.lxc": "lxc.prlimit.nice = 5",
        },
        cpus="0-1",
        security=(("lxc.seccomp.profile", "/x"),),
    )
    assert values_of(items, "lxc.environment") == ["GREETING=hello world"]
    assert values_of(items, "lxc.sysctl.net.ipv4.ip_forward") == ["1"]
    assert values_of(items, "lxc.prlimit.nofile") == ["10:20"]
    assert values_of(items, "lxc.cgroup2.memory.max") == [str(64 << 20)]
    assert values_of(items, "lxc.cgroup2.pids.max") == ["50"]
    assert values_of(items, "lxc.cgroup2.cpuset.cpus") == ["0-1"]
    assert values_of(items, "lxc.seccomp.profile") == ["/x"]
    assert any("dev/.lxc/proc" in value for value in values_of(items, "lxc.mount.entry"))
    assert items[-1] == ("lxc.prlimit.nice", "5")


def test_devices(tmp_path: Path) -> None:
    disk = RunConfig(mounts=[Mount(Path("/srv/a b"), "/mnt", True)])
    nics = [RunConfig(nics=[Nic(f"veth{i}", f"eth{i}")]) for i in range(2)]
    items = build(tmp_path, runs=(disk, *nics))
    assert "/srv/a\\040b mnt none bind,create=dir 0 0" in values_of(items, "lxc.mount.entry")
    assert values_of(items, "lxc.net.0.link") == ["veth0"]
    assert values_of(items, "lxc.net.1.link") == ["veth1"]
    assert "empty" not in values_of(items, "lxc.net.0.type")


def test_io_limits_of_one_device_merge_to_the_smallest() -> None:
    runs = [
        RunConfig(block_limits=[BlockLimit(8, 0, read_bytes=100, write_bytes=0)]),
        RunConfig(block_limits=[BlockLimit(8, 0, read_bytes=50, write_bytes=70)]),
    ]
    (merged,) = startconfig.throttles(runs)
    assert (merged.device, merged.read_bytes, merged.write_bytes) == ("8:0", 50, 70)


def test_lxcfs_is_used_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "lxcfs/proc").mkdir(parents=True)
    (tmp_path / "lxcfs/proc/uptime").touch()
    items = build(tmp_path)
    assert f"{tmp_path}/lxcfs/proc/uptime proc/uptime none bind,optional 0 0" in values_of(
        items, "lxc.mount.entry"
    )
