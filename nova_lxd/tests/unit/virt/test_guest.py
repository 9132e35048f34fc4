# SPDX-License-Identifier: Apache-2.0
"""Flavor, topology and image in LXD's words."""

from __future__ import annotations

from typing import Any

import pytest
from nova import exception, objects

from nova_lxd.tests.functional.virt import world
from nova_lxd.virt import guest


def cell(number: int, vcpus: int, **values: Any) -> objects.InstanceNUMACell:
    fields = {"id": number, "memory": 64, "cpuset": set(range(vcpus)), "pcpuset": set(),
              "pagesize": None, "cpu_pinning_raw": None}  # fmt: skip
    pins = values.pop("pins", None)
    values |= {"cpu_pinning_raw": {str(k): v for k, v in pins.items()}} if pins else {}
    return objects.InstanceNUMACell(**{**fields, **values})


def topology(*cells: objects.InstanceNUMACell) -> objects.InstanceNUMATopology:
    return objects.InstanceNUMATopology(cells=list(cells))


def cpu(vcpus: int, specs: dict[str, str] | None = None, **kwargs: Any) -> dict[str, str]:
    values = {"topology": None, "shared_cpus": None, "node_cpus": {}, **kwargs}
    return guest.cpu(world.flavor(vcpus=vcpus, extra_specs=specs or {}), **values)


@pytest.mark.parametrize("name", ["instance-00000001", "Web-1", "a" * 63])
def test_names_pass(name: str) -> None:
    assert guest.name(type("I", (), {"name": name})) == name


@pytest.mark.parametrize("name", ["1abc", "under_score", "-x", "x-", "a" * 64, "a.b", ""])
def test_impossible_names_say_what_to_set(name: str) -> None:
    with pytest.raises(exception.InstanceDeployFailure, match="instance_name_template"):
        guest.name(type("I", (), {"name": name}))


def test_plain_cpus_are_a_count() -> None:
    assert cpu(3) == {"limits.cpu": "3"}


def test_dedicated_cpus_are_a_set_even_when_one() -> None:
    pinned = topology(cell(0, 2, pins={0: 5, 1: 2}))
    assert cpu(2, topology=pinned)["limits.cpu"] == "2,5"
    single = topology(cell(0, 1, pins={0: 7}))
    assert cpu(1, topology=single)["limits.cpu"] == "7-7", "'7' would be a count"


def test_shared_set_wider_than_flavor_gets_a_quota() -> None:
    assert cpu(2, shared_cpus={0, 1, 2, 3}) == {
        "limits.cpu": "0,1,2,3",
        "limits.cpu.allowance": "200ms/100ms",
    }
    assert cpu(4, shared_cpus={0, 1, 2, 3}) == {"limits.cpu": "0,1,2,3"}


def test_numa_nodes_bound_the_cpus() -> None:
    nodes = {0: {0, 1}, 1: {2, 3}}
    found = cpu(2, topology=topology(cell(1, 2)), node_cpus=nodes)
    assert found == {"limits.cpu": "2,3"}
    found = cpu(1, topology=topology(cell(1, 1)), node_cpus=nodes, shared_cpus={1, 2})
    assert found == {"limits.cpu": "2-2"}


def test_explicit_quota_wins_over_the_shared_set() -> None:
    specs = {"quota:cpu_quota": "30000", "quota:cpu_period": "60000"}
    found = cpu(1, specs, shared_cpus={0, 1})
    assert found["limits.cpu.allowance"] == "30ms/60ms"


@pytest.mark.parametrize("shares,expected", [("512", "50%"), ("4096", "100%"), ("1", "1%")])
def test_shares_are_a_percentage(shares: str, expected: str) -> None:
    assert cpu(1, {"quota:cpu_shares": shares})["limits.cpu.allowance"] == expected


def test_memory_and_huge_pages() -> None:
    flavor = world.flavor(memory_mb=128)
    assert guest.memory(flavor, None) == {
        "limits.memory": "128MiB",
        "limits.memory.swap": "false",
    }
    huge = topology(cell(0, 1, pagesize=2048), cell(1, 1, pagesize=2048))
    assert guest.memory(flavor, huge)["limits.hugepages.2MB"] == str(128 << 20)
    small = topology(cell(0, 1, pagesize=4))
    assert not [key for key in guest.memory(flavor, small) if "huge" in key]


def test_isolation_by_default(lxd_conf: Any) -> None:
    keys = guest.security(world.flavor(), lxd_conf)
    assert keys == {
        "security.privileged": "false",
        "security.nesting": "false",
        "security.idmap.isolated": "true",
    }


def test_flavor_asks_within_the_operators_bounds(lxd_conf: Any) -> None:
    flavor = world.flavor(
        extra_specs={"lxd:nesting": "yes", "lxd:intercept_mknod": "true", "lxd:processes": "9"}
    )
    keys = guest.security(flavor, lxd_conf)
    assert keys["security.nesting"] == "true"
    assert keys["security.syscalls.intercept.mknod"] == "true"
    assert keys["limits.processes"] == "9"
    privileged = world.flavor(extra_specs={"lxd:privileged": "true"})
    with pytest.raises(exception.InstanceDeployFailure, match=r"\[lxd\]allow_privileged"):
        guest.security(privileged, lxd_conf)


def test_root_disk() -> None:
    specs = {
        "quota:disk_read_bytes_sec": "1000", "quota:disk_read_iops_sec": "5",
        "quota:disk_write_iops_sec": "7",
    }  # fmt: skip
    found = guest.root(world.flavor(root_gb=3, extra_specs=specs), "pool")
    assert found == {
        "type": "disk", "path": "/", "pool": "pool", "size": "3GiB",
        "limits.read": "1000B", "limits.write": "7iops",
    }  # fmt: skip
    assert "size" not in guest.root(world.flavor(root_gb=0), "pool")
