# SPDX-License-Identifier: Apache-2.0
"""``limits.*`` as control group settings and rlimits (LXD doc "Resource limits")."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from nova_lxd.lxd.host import cgroup_settings as cs
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.schema.instancevalues import parse_cpu_set
from nova_lxd.lxd.schema.sizes import parse_size

HUGEPAGE_SIZES = ("64KB", "1MB", "2MB", "1GB")
_SOFT_PART = 0.9
_ALLOWANCE_DEFAULT = 1024
_PRIORITY_DEFAULT = 10


@cache
def host_memory() -> int:
    """The host's memory in bytes."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return int(match[1]) * 1024 if match else 0


@cache
def host_cpus() -> tuple[int, ...]:
    """The processors that containers may be spread over."""
    return tuple(sorted(os.sched_getaffinity(0)))


def memory_bytes(value: str) -> int:
    """``limits.memory`` in bytes, -1 when unset."""
    if not value:
        return -1
    if value.endswith("%"):
        return host_memory() * int(value[:-1]) // 100
    return parse_size(value)


def memory(config: Mapping[str, str]) -> list[cs.Setting]:
    """Settings of ``limits.memory``, ``.enforce``, ``.swap`` and ``.swap.priority``."""
    limit = memory_bytes(config.get("limits.memory", ""))
    settings = []
    if limit < 0:
        settings.append(cs.memory_limit(-1))
        settings.append(cs.memory_soft_limit(-1))
    elif config.get("limits.memory.enforce") == "soft":
        settings.append(cs.memory_limit(-1))
        settings.append(cs.memory_soft_limit(limit))
    else:
        settings.append(cs.memory_soft_limit(-1))
        settings.append(cs.memory_limit(limit))
        settings.append(cs.memory_reserve(int(limit * _SOFT_PART)))
    if config.get("limits.memory.swap") and not is_true(config["limits.memory.swap"]):
        settings.append(cs.swappiness(0))
    elif config.get("limits.memory.swap.priority"):
        settings.append(cs.swappiness(60 - 10 + int(config["limits.memory.swap.priority"])))
    return settings


def cpu_time(config: Mapping[str, str]) -> list[cs.Setting]:
    """Settings of ``limits.cpu.allowance`` and ``limits.cpu.priority``."""
    allowance = config.get("limits.cpu.allowance", "")
    shares, quota, period = _ALLOWANCE_DEFAULT, -1, 100000
    if allowance.endswith("%"):
        shares = int(allowance[:-1]) * _ALLOWANCE_DEFAULT // 100
    elif allowance:
        used, _, of = allowance.partition("/")
        quota = int(used.removesuffix("ms")) * 1000
        period = int(of.removesuffix("ms")) * 1000
    # A point of priority is as little as possible, so that it decides between equals only.
    shares += int(config.get("limits.cpu.priority") or _PRIORITY_DEFAULT) - _PRIORITY_DEFAULT
    return [cs.cpu_shares(max(2, shares)), cs.cpu_quota(quota, period)]


def processes(config: Mapping[str, str]) -> list[cs.Setting]:
    """The setting of ``limits.processes``."""
    return [cs.processes(int(config.get("limits.processes") or -1))]


def hugepages(config: Mapping[str, str]) -> list[cs.Setting]:
    """Settings of ``limits.hugepages.*`` that are set."""
    return [
        cs.hugepages(size, parse_size(config[f"limits.hugepages.{size}"]))
        for size in HUGEPAGE_SIZES
        if config.get(f"limits.hugepages.{size}")
    ]


def disk_priority(config: Mapping[str, str]) -> list[cs.Setting]:
    """Settings of ``limits.disk.priority``."""
    priority = config.get("limits.disk.priority")
    if not priority:
        return []
    return cs.disk_weight(int(priority) * 100 or 10)


def at_start(config: Mapping[str, str]) -> list[cs.Setting]:
    """Every setting a starting container gets, but for its processors and devices.

    What is not limited is left alone: a new control group has no limits.
    """
    settings: list[cs.Setting] = []
    if any(config.get(k) for k in config if k.startswith("limits.memory")):
        settings += [s for s in memory(config) if not _lifts(s)]
    if config.get("limits.cpu.allowance") or config.get("limits.cpu.priority"):
        settings += [s for s in cpu_time(config) if not _lifts(s)]
    if config.get("limits.processes"):
        settings += processes(config)
    return settings + hugepages(config) + disk_priority(config)


def _lifts(setting: cs.Setting) -> bool:
    """Does the setting only say "no limit"?"""
    return all(value.split()[0] in ("-1", "max") for _, value in setting.v2 or setting.v1)


def changed(config: Mapping[str, str], keys: Iterable[str]) -> list[cs.Setting]:
    """Settings that bring a running container in line after the given keys changed."""
    settings: list[cs.Setting] = []
    names = set(keys)
    if any(name.startswith("limits.memory") for name in names):
        settings += memory(config)
    if names & {"limits.cpu.allowance", "limits.cpu.priority"}:
        settings += cpu_time(config)
    if "limits.processes" in names:
        settings += processes(config)
    for size in HUGEPAGE_SIZES:
        name = f"limits.hugepages.{size}"
        if name in names:
            value = config.get(name)
            settings.append(cs.hugepages(size, parse_size(value) if value else -1))
    if "limits.disk.priority" in names:
        settings += disk_priority({"limits.disk.priority": "5", **config})
    return settings


def rlimits(config: Mapping[str, str]) -> list[tuple[str, str]]:
    """``limits.kernel.*`` as liblxc configuration."""
    prefix = "limits.kernel."
    return [
        (f"lxc.prlimit.{key.removeprefix(prefix)}", value)
        for key, value in sorted(config.items())
        if key.startswith(prefix) and value
    ]


def pinned(config: Mapping[str, str]) -> list[int] | None:
    """The processors of an explicit ``limits.cpu`` set that this host has; None for a count."""
    value = config.get("limits.cpu", "")
    if not value or value.isdigit():
        return None
    wanted = parse_cpu_set(value)
    return [cpu for cpu in wanted if cpu in host_cpus()] or list(host_cpus())


def spread(wishes: Mapping[int, Mapping[str, str]]) -> dict[int, str]:
    """Processors for every running instance (by id) from its configuration.

    Sets are taken as they are; counts go where the fewest instances are, and who has no limit gets
    no entry.  The same wishes always give the same answer.
    """
    load = dict.fromkeys(host_cpus(), 0)
    result: dict[int, str] = {}
    counted: list[tuple[int, int]] = []
    for key, config in sorted(wishes.items()):
        cpus = pinned(config)
        if cpus is not None:
            for cpu in cpus:
                load[cpu] += 1
            result[key] = format_cpus(cpus)
        elif config.get("limits.cpu"):
            counted.append((int(config["limits.cpu"]), key))
    for count, key in sorted(counted, key=lambda item: (-item[0], item[1])):
        chosen = sorted(sorted(load, key=lambda cpu: (load[cpu], cpu))[:count])
        for cpu in chosen:
            load[cpu] += 1
        result[key] = format_cpus(chosen)
    return result


def format_cpus(cpus: Iterable[int]) -> str:
    """A kernel CPU list such as ``0-3,7``."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
