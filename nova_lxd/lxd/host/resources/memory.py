# SPDX-License-Identifier: Apache-2.0
"""Memory and its NUMA nodes, in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nova_lxd.lxd.host.resources import sysfs


def collect(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesMemory``; caches and buffers do not count as used."""
    info = _meminfo(sysfs.text(root / "proc/meminfo"))
    top = root / "sys/devices/system"
    block = sysfs.number(top / "memory/block_size_bytes", base=16)
    nodes = []
    for path in sysfs.children(top / "node"):
        if not path.name.removeprefix("node").isdigit():
            continue
        node = _meminfo(sysfs.text(path / "meminfo"))
        nodes.append(
            {
                "numa_node": int(path.name[4:]),
                **_hugepages(node, info),
                "used": node.get("MemUsed", 0),
                "total": _online(path, block) or node.get("MemTotal", 0),
            }
        )
    total = _online(top / "memory", block) or info.get("MemTotal", 0)
    idle = sum(info.get(key, 0) for key in ("MemFree", "Cached", "Buffers"))
    result = {
        "nodes": nodes,
        **_hugepages(info, info),
        "hugepages_size": info.get("Hugepagesize", 0),
        "used": max(0, total - idle),
        "total": total,
    }
    return sysfs.without_empty(result, "nodes")


def _meminfo(text: str) -> dict[str, int]:
    """The fields of a meminfo file, of the host's or of a node's (``Node 0 MemFree: 1 kB``)."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields = value.split()
        if fields:
            unit = 1024 if fields[-1] == "kB" else 1
            found[key.split()[-1]] = int(fields[0]) * unit
    return found


def _hugepages(info: dict[str, int], host: dict[str, int]) -> dict[str, int]:
    size = host.get("Hugepagesize", 0)
    total, free = info.get("HugePages_Total", 0), info.get("HugePages_Free", 0)
    return {"hugepages_used": (total - free) * size, "hugepages_total": total * size}


def _online(top: Path, block: int) -> int:
    """The memory in online blocks below a directory; more than the kernel keeps for itself."""
    blocks = (p for p in sysfs.children(top) if p.name.removeprefix("memory").isdigit())
    return block * sum(sysfs.number(path / "online") for path in blocks)
