# SPDX-License-Identifier: Apache-2.0
"""What a Nova instance is in LXD's words: pure functions of flavor, image and topology."""

from __future__ import annotations

import re
from typing import Any

from nova import exception
from oslo_utils import strutils, units

from nova_lxd.virt import shaping
from nova_lxd.virt.events import UUID_KEY

# What LXD takes as an instance's name.
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{0,61}[a-zA-Z0-9]")

ROOT = "root"
VIF_RATES_KEY = "user.nova.vif-rates"
PRODUCT_KEY = "environment.product_name"
PRODUCT_NAME = "OpenStack Nova"  # what cloud-init looks for in a container's environment
CPU_PERIOD_US = 100_000
SHARES_OF_ONE = 1024
INTERCEPTS = ("mknod", "setxattr", "bpf", "sysinfo")


def name(instance: Any) -> str:
    """Return the LXD name of an instance.

    :raises nova.exception.InstanceDeployFailure: instance_name_template makes no valid one
    """
    if not NAME.fullmatch(instance.name):
        raise exception.InstanceDeployFailure(
            reason=f"'{instance.name}' cannot be the name of an LXD instance: set"
            " instance_name_template in nova.conf so that names begin with a letter and have"
            " letters, digits and dashes only, at most 63"
        )
    return instance.name


def config(
    instance: Any,
    flavor: Any,
    conf: Any,
    shared_cpus: set[int] | None = None,
    node_cpus: dict[int, set[int]] | None = None,
) -> dict[str, str]:
    """Return the instance's LXD config keys.

    :param flavor: the flavor that counts (at a resize not yet the instance's own)
    :param conf: the ``[lxd]`` section
    :param shared_cpus: the CPUs of ``[compute]cpu_shared_set``, when it is set
    :param node_cpus: the host's CPUs by NUMA node
    :raises nova.exception.NovaException: the operator does not allow what the flavor asks for
    """
    return {
        UUID_KEY: instance.uuid,
        "user.nova.flavor": flavor.name,
        "user.nova.project": instance.project_id or "",
        PRODUCT_KEY: PRODUCT_NAME,
        "boot.autostart": "false",
        # cloud-init shall find OpenStack's own sources, not LXD's
        "security.devlxd": "false",
        **memory(flavor, instance.numa_topology),
        **cpu(flavor, instance.numa_topology, shared_cpus, node_cpus or {}),
        **security(flavor, conf),
        **vif_rates(flavor),
    }


def memory(flavor: Any, topology: Any) -> dict[str, str]:
    """Return the memory limits; huge pages when the scheduler gave the instance some."""
    limits = {
        "limits.memory": f"{flavor.memory_mb}MiB",
        "limits.memory.swap": "true" if flavor.swap else "false",
    }
    for cell in topology.cells if topology else ():
        size = _huge_page_name(cell.pagesize)
        if size:
            key = f"limits.hugepages.{size}"
            total = cell.memory * units.Mi + int(limits.get(key, 0))
            limits[key] = str(total)
    return limits


def cpu(
    flavor: Any,
    topology: Any,
    shared_cpus: set[int] | None,
    node_cpus: dict[int, set[int]],
) -> dict[str, str]:
    """Return the CPU limits.

    Dedicated CPUs are pinned as the scheduler chose; a NUMA topology keeps the instance on its
    nodes' shared CPUs; else LXD balances the instance over the host, or the shared set.
    """
    specs = flavor.extra_specs
    limits = _allowance(specs)
    cells = topology.cells if topology else []
    pinned = {cpu for cell in cells for cpu in (cell.cpu_pinning or {}).values()}
    nodes = {cell.id for cell in cells if not cell.cpu_pinning and cell.id in node_cpus}
    floating: set[int] = set()
    for node in nodes:
        floating |= node_cpus[node] & (shared_cpus if shared_cpus is not None else node_cpus[node])
    if pinned or floating:
        limits["limits.cpu"] = _cpu_list(pinned | floating)
    elif shared_cpus is not None:
        limits["limits.cpu"] = _cpu_list(shared_cpus)
    else:
        limits["limits.cpu"] = str(flavor.vcpus)
        return limits
    if not pinned and flavor.vcpus < len(floating or shared_cpus or ()):
        # the set is wider than the flavor: the quota makes up for it
        limits.setdefault("limits.cpu.allowance", f"{flavor.vcpus * 100}ms/100ms")
    return limits


def _allowance(specs: dict[str, str]) -> dict[str, str]:
    quota = int(specs.get("quota:cpu_quota", 0))
    if quota > 0:
        period = int(specs.get("quota:cpu_period", CPU_PERIOD_US))
        return {"limits.cpu.allowance": f"{max(1, quota // 1000)}ms/{max(1, period // 1000)}ms"}
    if "quota:cpu_shares" in specs:
        # LXD knows a percentage of the default weight; more than all of it does not exist
        percent = int(specs["quota:cpu_shares"]) * 100 // SHARES_OF_ONE
        return {"limits.cpu.allowance": f"{min(100, max(1, percent))}%"}
    return {}


def security(flavor: Any, conf: Any) -> dict[str, str]:
    """Return the isolation keys; the operator's options bound what a flavor may ask for."""
    specs = flavor.extra_specs
    privileged = _true(specs, "lxd:privileged")
    nesting = _true(specs, "lxd:nesting")
    if privileged and not conf.allow_privileged:
        _refuse(flavor, "lxd:privileged", "allow_privileged")
    if nesting and not conf.allow_nesting:
        _refuse(flavor, "lxd:nesting", "allow_nesting")
    keys = {
        "security.nesting": _text(nesting),
        **isolation(privileged, conf),
    }
    for call in INTERCEPTS:
        if _true(specs, f"lxd:intercept_{call}"):
            keys[f"security.syscalls.intercept.{call}"] = "true"
    if "lxd:processes" in specs:
        keys["limits.processes"] = specs["lxd:processes"]
    return keys


def vif_rates(flavor: Any) -> dict[str, str]:
    """Return the mark of the network rates, by which a resize sees that the ports must change."""
    found = shaping.rates(flavor.extra_specs)
    return {VIF_RATES_KEY: shaping.text(found)} if found else {}


def isolation(privileged: bool, conf: Any) -> dict[str, str]:
    """Return the keys that say whose ids a container's root has on the host."""
    keys = {"security.privileged": _text(privileged)}
    if not privileged:
        keys["security.idmap.isolated"] = _text(conf.isolated_idmap)
    return keys


def root_disk(pool: str) -> dict[str, str]:
    """Return a root disk device without limits."""
    return {"type": "disk", "path": "/", "pool": pool}


def root(flavor: Any, pool: str) -> dict[str, str]:
    """Return the root disk device; a flavor with root_gb 0 has no quota."""
    device = root_disk(pool)
    if flavor.root_gb:
        device["size"] = f"{flavor.root_gb}GiB"
    return {**device, **disk_limits(flavor.extra_specs)}


def disk_limits(specs: dict[str, str]) -> dict[str, str]:
    """Return the rate limits of a disk; LXD counts bytes or requests, bytes win."""
    limits = {}
    for ours, theirs in (("read", "read"), ("write", "write"), ("total", "max")):
        size = int(specs.get(f"quota:disk_{ours}_bytes_sec", 0))
        requests = int(specs.get(f"quota:disk_{ours}_iops_sec", 0))
        if size:
            limits[f"limits.{theirs}"] = f"{size}B"
        elif requests:
            limits[f"limits.{theirs}"] = f"{requests}iops"
    return limits


def ephemeral_volume(instance: Any, index: int) -> str:
    """Return the name of the storage volume behind an ephemeral disk."""
    return f"{name(instance)}-eph{index}"


def ephemeral(instance: Any, index: int, pool: str) -> dict[str, str]:
    """Return the device of an ephemeral disk: a volume mounted at /mnt/ephemeralN."""
    return {
        **disk_limits(instance.flavor.extra_specs),
        "type": "disk",
        "pool": pool,
        "source": ephemeral_volume(instance, index),
        "path": f"/mnt/ephemeral{index}",
    }


def config_drive(path: str) -> dict[str, str]:
    """Return the device of a config drive tree; cloud-init looks for it at /config-drive."""
    return {"type": "disk", "source": path, "path": "/config-drive", "readonly": "true"}


def _true(specs: dict[str, str], key: str) -> bool:
    return strutils.bool_from_string(specs.get(key, "false"), strict=True)


def _text(value: bool) -> str:
    return "true" if value else "false"


def _refuse(flavor: Any, spec: str, option: str) -> None:
    raise exception.InstanceDeployFailure(
        reason=f"flavor '{flavor.name}' asks for {spec}, which [lxd]{option} forbids on this host"
    )


def _cpu_list(cpus: set[int]) -> str:
    """Write CPU ids as LXD reads a set; a lone number would be a count."""
    ids = sorted(cpus)
    return f"{ids[0]}-{ids[0]}" if len(ids) == 1 else ",".join(map(str, ids))


def _huge_page_name(kib: int | None) -> str | None:
    return {64: "64KB", 1024: "1MB", 2048: "2MB", 1048576: "1GB"}.get(kib or 0)
