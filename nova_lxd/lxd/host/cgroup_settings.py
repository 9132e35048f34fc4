# SPDX-License-Identifier: Apache-2.0
"""Limits of a container as values, each said for cgroup v1 and for v2.

:class:`..cgroups.Layout` turns them into liblxc configuration for a start and
:class:`..cgroups.Cgroup` writes them into a running container.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_DEFAULT_SHARES = 1024
_DEFAULT_WEIGHT = 100
# Files of v2 that only some kernels have.
RARE = frozenset({"io.weight", "io.bfq.weight"})

# What every container may use, privileged or not (LXD's list): making any node, terminals, the
# harmless memory devices, fuse and tun.
DEVICES_ALLOWED = (
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
    "c 10:229 rwm",
    "c 136:* rwm",
)


@dataclass(frozen=True)
class Setting:
    """One wish to a controller: the (file, value) pairs to write, in order, in each dialect.

    Files in ``optional`` are skipped where the kernel lacks them.
    """

    controller: str
    v1: tuple[tuple[str, str], ...] = ()
    v2: tuple[tuple[str, str], ...] = ()
    optional: frozenset[str] = frozenset()


def cpu_set(cpus: str) -> Setting:
    """Run on these processors only (``0-3,7``)."""
    return Setting("cpuset", (("cpuset.cpus", cpus),), (("cpuset.cpus", cpus),))


def cpu_shares(shares: int = _DEFAULT_SHARES) -> Setting:
    """The weight against others when processors are short; 1024 is one container's share."""
    weight = min(10000, max(1, shares * _DEFAULT_WEIGHT // _DEFAULT_SHARES))
    return Setting("cpu", (("cpu.shares", str(max(2, shares))),), (("cpu.weight", str(weight)),))


def cpu_quota(quota: int, period: int = 100000) -> Setting:
    """At most ``quota`` microseconds of processor time in each ``period``; -1 for no limit."""
    v1 = (("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", str(quota)))
    return Setting("cpu", v1, (("cpu.max", f"{'max' if quota < 0 else quota} {period}"),))


def memory_limit(limit: int) -> Setting:
    """At most ``limit`` bytes of memory and swap together; -1 for no limit."""
    together, swap = "memory.memsw.limit_in_bytes", "memory.swap.max"
    # The joint limit may never be below the memory's own: first out of the way, then down.
    v1 = [(together, "-1"), ("memory.limit_in_bytes", str(limit))]
    if limit >= 0:
        v1.append((together, str(limit)))
    v2 = (("memory.max", _max(limit)), (swap, "max" if limit < 0 else "0"))
    return Setting("memory", tuple(v1), v2, frozenset({together, swap}))


def memory_soft_limit(limit: int) -> Setting:
    """Reclaim above ``limit`` bytes when the host is short; -1 for never."""
    return Setting(
        "memory", (("memory.soft_limit_in_bytes", str(limit)),), (("memory.high", _max(limit)),)
    )


def memory_reserve(limit: int) -> Setting:
    """On v1 a soft limit below the hard one; none on v2, where ``memory.high`` throttles."""
    return Setting("memory", (("memory.soft_limit_in_bytes", str(limit)),))


def swappiness(percent: int) -> Setting:
    """How readily its memory is swapped out, 0 to 100; v2 cannot say that for one group."""
    return Setting("memory", (("memory.swappiness", str(percent)),))


def processes(limit: int) -> Setting:
    """At most this many processes and threads; -1 for no limit."""
    return Setting("pids", (("pids.max", _max(limit)),), (("pids.max", _max(limit)),))


def network_priority(interface: str, priority: int) -> Setting:
    """The priority of what is sent on one interface of the host; only v1 has such a controller."""
    return Setting("net_prio", (("net_prio.ifpriomap", f"{interface} {priority}"),))


def disk_weight(weight: int) -> list[Setting]:
    """The weight against others on busy disks, 10 to 1000; needs the kernel's bfq scheduler."""
    name = "blkio.bfq.weight"
    return [
        Setting(
            "blkio",
            (("blkio.weight", str(weight)), (name, str(weight))),
            optional=frozenset({"blkio.weight", name}),
        ),
        Setting(
            "io",
            (),
            (("io.weight", str(weight)), ("io.bfq.weight", str(weight))),
            optional=RARE,
        ),
    ]


@dataclass(frozen=True)
class Throttle:
    """Limits of one block device, per second; 0 for no limit."""

    device: str
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


def disk_throttles(throttles: Iterable[Throttle]) -> list[Setting]:
    """Limit what is read and written on block devices (``MAJOR:MINOR``)."""
    settings = []
    for t in throttles:
        v1 = (
            ("read_bps", t.read_bytes),
            ("write_bps", t.write_bytes),
            ("read_iops", t.reads),
            ("write_iops", t.writes),
        )
        v2 = (
            ("rbps", t.read_bytes),
            ("wbps", t.write_bytes),
            ("riops", t.reads),
            ("wiops", t.writes),
        )
        files = tuple((f"blkio.throttle.{n}_device", f"{t.device} {v}") for n, v in v1)
        settings.append(Setting("blkio", files))
        line = " ".join(f"{name}={value or 'max'}" for name, value in v2)
        settings.append(Setting("io", (), (("io.max", f"{t.device} {line}"),)))
    return settings


def devices(allowed: Iterable[str] = DEVICES_ALLOWED) -> Setting:
    """The device nodes that may be used: lines ``b|c MAJOR:MINOR rwm``; all others are refused."""
    lines = (("devices.deny", "a"), *(("devices.allow", line) for line in allowed))
    return Setting("devices", lines, lines)


def device(rule: str, *, allow: bool) -> Setting:
    """Allow or refuse one more node in a running container (v1; v2 goes through the monitor)."""
    return Setting("devices", ((f"devices.{'allow' if allow else 'deny'}", rule),))


def hugepages(size: str, limit: int) -> Setting:
    """At most ``limit`` bytes in huge pages of ``size`` (2MB, 1GB, 64KB, 1MB); -1 for no limit."""
    v1 = ((f"hugetlb.{size}.limit_in_bytes", str(limit)),)
    return Setting("hugetlb", v1, ((f"hugetlb.{size}.max", _max(limit)),))


def _max(limit: int) -> str:
    return "max" if limit < 0 else str(limit)
