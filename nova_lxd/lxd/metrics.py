# SPDX-License-Identifier: Apache-2.0
"""Metrics of running instances and of the daemon, as OpenMetrics text under LXD's names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.lxd.host import netstate
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.service import Instances

Labels = Mapping[str, str]
_STARTED = time.monotonic()

# Name, type and help of every metric, in the order of the output.
_METRICS: tuple[tuple[str, str, str], ...] = (
    ("lxd_cpu_seconds_total", "counter", "The total number of CPU time used in seconds."),
    ("lxd_disk_read_bytes_total", "counter", "The total number of bytes read."),
    ("lxd_disk_reads_completed_total", "counter", "The total number of completed reads."),
    ("lxd_disk_written_bytes_total", "counter", "The total number of bytes written."),
    ("lxd_disk_writes_completed_total", "counter", "The total number of completed writes."),
    ("lxd_filesystem_avail_bytes", "gauge", "The number of available space in bytes."),
    ("lxd_filesystem_free_bytes", "gauge", "The number of free space in bytes."),
    ("lxd_filesystem_size_bytes", "gauge", "The size of the filesystem in bytes."),
    ("lxd_memory_Active_anon_bytes", "gauge", "Anonymous memory on the active LRU list."),
    ("lxd_memory_Active_file_bytes", "gauge", "File-backed memory on the active LRU list."),
    ("lxd_memory_Active_bytes", "gauge", "Memory on the active LRU list."),
    ("lxd_memory_Cached_bytes", "gauge", "Cached memory."),
    ("lxd_memory_Dirty_bytes", "gauge", "Memory waiting to be written back to the disk."),
    ("lxd_memory_Inactive_anon_bytes", "gauge", "Anonymous memory on the inactive LRU list."),
    ("lxd_memory_Inactive_file_bytes", "gauge", "File-backed memory on the inactive LRU list."),
    ("lxd_memory_Inactive_bytes", "gauge", "Memory on the inactive LRU list."),
    ("lxd_memory_Mapped_bytes", "gauge", "Mapped memory."),
    ("lxd_memory_MemAvailable_bytes", "gauge", "Available memory."),
    ("lxd_memory_MemFree_bytes", "gauge", "Free memory."),
    ("lxd_memory_MemTotal_bytes", "gauge", "Memory that the instance may use."),
    ("lxd_memory_OOM_kills_total", "counter", "Processes killed for want of memory."),
    ("lxd_memory_RSS_bytes", "gauge", "Anonymous and swap cache memory."),
    ("lxd_memory_Shmem_bytes", "gauge", "Cached file system data that is swap-backed."),
    ("lxd_memory_Swap_bytes", "gauge", "Used swap memory."),
    ("lxd_memory_Unevictable_bytes", "gauge", "Unevictable memory."),
    ("lxd_memory_Writeback_bytes", "gauge", "Memory queued for syncing to disk."),
    ("lxd_network_receive_bytes_total", "counter", "Received bytes of an interface."),
    ("lxd_network_receive_drop_total", "counter", "Received dropped packets of an interface."),
    ("lxd_network_receive_errs_total", "counter", "Received errors of an interface."),
    ("lxd_network_receive_packets_total", "counter", "Received packets of an interface."),
    ("lxd_network_transmit_bytes_total", "counter", "Transmitted bytes of an interface."),
    ("lxd_network_transmit_drop_total", "counter", "Transmitted dropped packets."),
    ("lxd_network_transmit_errs_total", "counter", "Transmitted errors of an interface."),
    ("lxd_network_transmit_packets_total", "counter", "Transmitted packets of an interface."),
    ("lxd_procs_total", "gauge", "The number of running processes."),
    ("lxd_operations_total", "counter", "The number of running operations."),
    ("lxd_warnings_total", "counter", "The number of active warnings."),
    ("lxd_uptime_seconds", "gauge", "The daemon's uptime in seconds."),
)

# memory.stat lines (version 1 with total_, version 2) of each metric.
_MEMORY: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Active_anon", ("total_active_anon",), ("active_anon",)),
    ("Active_file", ("total_active_file",), ("active_file",)),
    ("Active", ("total_active_anon", "total_active_file"), ("active_anon", "active_file")),
    ("Cached", ("total_cache",), ("file",)),
    ("Dirty", ("total_dirty",), ("file_dirty",)),
    ("Inactive_anon", ("total_inactive_anon",), ("inactive_anon",)),
    ("Inactive_file", ("total_inactive_file",), ("inactive_file",)),
    (
        "Inactive",
        ("total_inactive_anon", "total_inactive_file"),
        ("inactive_anon", "inactive_file"),
    ),
    ("Mapped", ("total_mapped_file",), ("file_mapped",)),
    ("RSS", ("total_rss",), ("anon",)),
    ("Shmem", ("total_shmem",), ("shmem",)),
    ("Unevictable", ("total_unevictable",), ("unevictable",)),
    ("Writeback", ("total_writeback",), ("file_writeback",)),
)


@dataclass(frozen=True)
class Sample:
    """One value of one metric."""

    name: str
    labels: Labels
    value: float


def render(samples: Iterable[Sample]) -> str:
    """The samples as OpenMetrics text, grouped under their metrics."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    lines = []
    for name, kind, doc in _METRICS:
        if name in by_name:
            lines += [f"# HELP {name} {doc}", f"# TYPE {name} {kind}"]
            lines += [_line(sample) for sample in by_name[name]]
    return "\n".join([*lines, "# EOF", ""])


def _line(sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels.items())
    number = f"{sample.value:.17g}" if sample.value % 1 else f"{sample.value:.0f}"
    return f"{sample.name}{{{labels}}} {number}" if labels else f"{sample.name} {number}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def of_instances(instances: Instances, wanted: Callable[[str], bool]) -> Iterator[Sample]:
    """The metrics of the running instances of the projects that are wanted."""
    for instance in instances.all():
        if not wanted(instance.project):
            continue
        try:
            group = instances.cgroup(instance)
            if group is not None and instance.running is not None:
                yield from list(_of_instance(instance, group, instance.running.init))
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue


def _of_instance(instance: Instance, group: Cgroup, init: int) -> Iterator[Sample]:
    labels = {"name": instance.name, "project": instance.project, "type": "container"}
    for spent in group.cpu_times():
        for mode, seconds in (("system", spent.system), ("user", spent.user)):
            cpu = {"cpu": spent.cpu or "0", "mode": mode}
            yield Sample("lxd_cpu_seconds_total", cpu | labels, seconds)
    for disk in group.disk_io():
        device = {"device": disk.device} | labels
        yield Sample("lxd_disk_read_bytes_total", device, disk.read_bytes)
        yield Sample("lxd_disk_reads_completed_total", device, disk.reads)
        yield Sample("lxd_disk_written_bytes_total", device, disk.write_bytes)
        yield Sample("lxd_disk_writes_completed_total", device, disk.writes)
    yield from _file_system(labels, init)
    yield from _memory(labels, group)
    yield from _network(labels, init)
    yield Sample("lxd_procs_total", labels, len(group.processes()))


def _file_system(labels: Labels, init: int) -> Iterator[Sample]:
    found = os.statvfs(f"/proc/{init}/root")
    where = {"device": "", "mountpoint": "/"} | dict(labels)
    yield Sample("lxd_filesystem_avail_bytes", where, found.f_bavail * found.f_frsize)
    yield Sample("lxd_filesystem_free_bytes", where, found.f_bfree * found.f_frsize)
    yield Sample("lxd_filesystem_size_bytes", where, found.f_blocks * found.f_frsize)


def _host_memory() -> int:
    first = Path("/proc/meminfo").read_text().split("\n", 1)[0]
    return int(first.split()[1]) * 1024


def _memory(labels: Labels, group: Cgroup) -> Iterator[Sample]:
    stat = group.memory_stat()
    for name, old, new in _MEMORY:
        names = old if old[0] in stat else new
        value = sum(stat.get(line, 0) for line in names)
        yield Sample(f"lxd_memory_{name}_bytes", labels, value)
    total = group.memory_limit()
    if total < 0:
        total = _host_memory()
    used = group.memory()
    cached = stat.get("total_cache", stat.get("file", 0))
    yield Sample("lxd_memory_MemTotal_bytes", labels, total)
    yield Sample("lxd_memory_MemFree_bytes", labels, max(0, total - used.usage))
    yield Sample("lxd_memory_MemAvailable_bytes", labels, max(0, total - used.usage + cached))
    yield Sample("lxd_memory_Swap_bytes", labels, max(0, used.swap))
    yield Sample("lxd_memory_OOM_kills_total", labels, group.oom_kills())


def _network(labels: Labels, init: int) -> Iterator[Sample]:
    for name, state in netstate.of_process(init).items():
        where = {"device": name} | dict(labels)
        count = state.counters
        for direction, values in (
            (
                "receive",
                (
                    count.bytes_received,
                    count.packets_dropped_inbound,
                    count.errors_received,
                    count.packets_received,
                ),
            ),
            (
                "transmit",
                (
                    count.bytes_sent,
                    count.packets_dropped_outbound,
                    count.errors_sent,
                    count.packets_sent,
                ),
            ),
        ):
            for what, value in zip(("bytes", "drop", "errs", "packets"), values, strict=True):
                yield Sample(f"lxd_network_{direction}_{what}_total", where, value)


def of_daemon(operations: int, warnings: int) -> Iterator[Sample]:
    """What the daemon tells of itself."""
    yield Sample("lxd_operations_total", {}, operations)
    yield Sample("lxd_warnings_total", {}, warnings)
    yield Sample("lxd_uptime_seconds", {}, time.monotonic() - _STARTED)
