# SPDX-License-Identifier: Apache-2.0
"""Processors: sockets, caches, cores and threads."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from nova_lxd.lxd.host.resources import sysfs

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def collect(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesCPU``; frequencies are in MHz, caches in bytes."""
    top = root / "sys/devices/system/cpu"
    models = _models(sysfs.text(root / "proc/cpuinfo"))
    isolated = sysfs.ranges(sysfs.text(top / "isolated"))
    sockets: dict[int, dict[str, Any]] = {}
    total = 0
    cpus = (path for path in sysfs.children(top) if path.name.removeprefix("cpu").isdigit())
    for path in sorted(cpus, key=lambda p: int(p.name[3:])):
        index = int(path.name[3:])
        topology = path / "topology"
        package = max(0, sysfs.number(topology / "physical_package_id"))
        socket = sockets.get(package)
        if socket is None:
            socket = sockets[package] = _socket(path, package, models.get(index, {}))
        core = _core(socket, path)
        core["threads"].append(
            {
                "id": index,
                "numa_node": _node(path),
                "thread": len(core["threads"]),
                "online": sysfs.number(path / "online", 1) == 1,
                "isolated": index in isolated,
            }
        )
        total += 1
    found = [_finish(socket) for _, socket in sorted(sockets.items())]
    return {"architecture": platform.machine(), "sockets": found, "total": total}


def _models(cpuinfo: str) -> dict[int, dict[str, str]]:
    """/proc/cpuinfo: processor → its fields."""
    found: dict[int, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, sep, value = line.partition(":")
        if not sep:
            continue
        if key.strip() == "processor":
            current = found[int(value)] = {}
        current[key.strip()] = value.strip()
    return found


def _socket(path: Path, package: int, model: dict[str, str]) -> dict[str, Any]:
    frequency = path / "cpufreq"
    socket = {
        "name": model.get("model name", ""),
        "vendor": model.get("vendor_id", ""),
        "socket": package,
        "cache": _caches(path),
        "cores": {},
        "frequency_minimum": sysfs.number(frequency / "cpuinfo_min_freq") // 1000,
        "frequency_turbo": sysfs.number(frequency / "cpuinfo_max_freq") // 1000,
    }
    return sysfs.without_empty(
        socket, "name", "vendor", "frequency_minimum", "frequency_turbo", "cache"
    )


def _caches(path: Path) -> list[dict[str, Any]]:
    found = []
    for index in sysfs.children(path / "cache"):
        if not index.name.startswith("index"):
            continue
        size = sysfs.text(index / "size", "0")
        unit = _UNITS.get(size[-1:], 1)
        found.append(
            {
                "level": sysfs.number(index / "level"),
                "type": sysfs.text(index / "type"),
                "size": int(size.rstrip("KMG") or 0) * unit,
            }
        )
    return found


def _core(socket: dict[str, Any], path: Path) -> dict[str, Any]:
    number = sysfs.number(path / "topology/core_id")
    die = max(0, sysfs.number(path / "topology/die_id"))
    core: dict[str, Any] = socket["cores"].setdefault(
        (die, number), {"core": number, "die": die, "threads": []}
    )
    frequency = sysfs.number(path / "cpufreq/scaling_cur_freq") // 1000
    if frequency:
        core["frequency"] = frequency
    return core


def _finish(socket: dict[str, Any]) -> dict[str, Any]:
    cores = [core for _, core in sorted(socket["cores"].items())]
    frequencies = [core["frequency"] for core in cores if "frequency" in core]
    result = {**socket, "cores": cores}
    if frequencies:
        result["frequency"] = sum(frequencies) // len(frequencies)
    return result


def _node(path: Path) -> int:
    nodes = (p.name[4:] for p in sysfs.children(path) if p.name.startswith("node"))
    return next((int(name) for name in nodes if name.isdigit()), 0)
