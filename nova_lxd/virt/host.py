# SPDX-License-Identifier: Apache-2.0
"""The compute host: what the server must offer, what the host has, what placement is told."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import time
from typing import Any

import nova.conf
import os_resource_classes as orc
import os_traits
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.objects import fields
from nova.virt import hardware
from oslo_log import log as logging
from oslo_utils import units, versionutils

from nova_lxd.virt import cputraits, exception, guest
from nova_lxd.virt.client import LXDClient

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

TRAIT_LXD = "CUSTOM_LXD"
DISABLE_PREFIX = "AUTO: "
PROBE = "nova-lxd-probe"  # the container by which a new host is tried

# Announced by LXD 4.0 and later, and by the bundled daemon; the first missing one is named.
REQUIRED_EXTENSIONS = (
    "projects",
    "instances",
    "resources",
    "storage",
    "event_lifecycle",
    "console",
    "id_map",
)

PROJECT_CONFIG = {
    "features.images": "true",
    "features.profiles": "true",
    "features.storage.volumes": "true",
}

class Host:
    """One LXD server as a Nova compute node.

    :param client: LXD, in the project of this host
    :param name: nova-compute's host name, which is the node's name too
    """

    def __init__(self, client: LXDClient, name: str) -> None:
        self.name = name
        self._client = client
        self._resources: dict[str, Any] = {}

    # -- start-up ---------------------------------------------------------------------------

    def check(self) -> None:
        """Check that the server can run instances, and make the project.

        :raises HostNotUsable: with one sentence that says what to do
        :raises LXDUnavailable:
        """
        server = self._client.server()
        if server["auth"] != "trusted":
            raise exception.HostNotUsable(
                reason="LXD does not trust the certificate in [lxd]client_cert; add it with"
                " 'lxc config trust add' on the server"
            )
        for name in REQUIRED_EXTENSIONS:
            if name not in server["api_extensions"]:
                version = server["environment"]["server_version"]
                raise exception.HostNotUsable(
                    reason=f"LXD {version} lacks the API extension '{name}'; install LXD 4.0 or"
                    " later, or the bundled daemon"
                )
        if not self._client.exists("storage-pools", CONF.lxd.pool):
            raise exception.HostNotUsable(
                reason=f"there is no storage pool '{CONF.lxd.pool}'; make it with 'lxc storage"
                f" create {CONF.lxd.pool} btrfs', or name another in [lxd]pool"
            )
        self._make_project()
        self._check_ids()
        self._resources = self._client.get("resources")

    def _make_project(self) -> None:
        name = self._client.project
        if name != "default" and not self._client.exists("projects", name):
            self._client.post(
                "projects",
                json={
                    "name": name,
                    "description": f"Nova instances of {self.name}",
                    "config": PROJECT_CONFIG,
                },
            )

    def _check_ids(self) -> None:
        """Have the server make one empty container: it has a pool to put it in, and ids to map.

        Instances that are there already show as much, and may have taken the last range of ids.
        """
        self._client.delete("instances", PROBE, missing_ok=True)  # of a nova-compute that died
        if self._client.get("instances"):
            return
        try:
            self._client.post(
                "instances",
                json={
                    "name": PROBE,
                    "type": "container",
                    "profiles": [],
                    "config": guest.isolation(privileged=False, conf=CONF.lxd),
                    "devices": {guest.ROOT: guest.root_disk(CONF.lxd.pool)},
                    "source": {"type": "none"},
                },
            )
        except exception.LXDError as e:
            raise exception.HostNotUsable(
                reason=f"LXD cannot make a container ({e}); root needs a range of at least 65536"
                " ids for each instance in /etc/subuid and /etc/subgid, or [lxd]isolated_idmap ="
                f" false and one range, and the pool '{CONF.lxd.pool}' must work"
            )
        self._client.delete("instances", PROBE, missing_ok=True)

    def server_version(self) -> int:
        """Return LXD's version as Nova's integer, for example 5000002."""
        version = self._client.server()["environment"]["server_version"]
        return versionutils.convert_version_to_int(version.split("-")[0].split("+")[0])

    # -- capacity ---------------------------------------------------------------------------

    def cpus(self) -> dict[int, dict[str, Any]]:
        """Return the online CPUs: id → {node, socket, core}."""
        found = {}
        for socket in self._resources["cpu"]["sockets"]:
            for core in socket["cores"]:
                for thread in core["threads"]:
                    if thread["online"]:
                        found[thread["id"]] = {
                            "node": thread.get("numa_node", 0),
                            "socket": socket["socket"],
                            "core": (socket["socket"], core.get("die", 0), core["core"]),
                        }
        return found

    def shared_cpus(self) -> set[int]:
        """Return the CPUs for VCPU allocations, as [compute] in nova.conf says."""
        online = set(self.cpus())
        shared = hardware.get_cpu_shared_set()
        dedicated = hardware.get_cpu_dedicated_set()
        if shared is not None:
            return online & shared
        return set() if dedicated else online

    def dedicated_cpus(self) -> set[int]:
        """Return the CPUs for PCPU allocations."""
        return set(self.cpus()) & (hardware.get_cpu_dedicated_set() or set())

    def memory_mb(self) -> int:
        """Return the host's memory in MiB."""
        return self._resources["memory"]["total"] // units.Mi

    def memory_mb_used(self) -> int:
        """Return the memory in use, caches not counted, in MiB."""
        values = {}
        with pathlib.Path("/proc/meminfo").open() as meminfo:
            for line in meminfo:
                key, value = line.split(":")
                values[key] = int(value.split()[0])
        return (values["MemTotal"] - values["MemAvailable"]) // units.Ki

    def pool_gb(self) -> tuple[int, int]:
        """Return the total and the used size of the storage pool in GiB."""
        space = self._client.get("storage-pools", CONF.lxd.pool, "resources")["space"]
        used = -(-space.get("used", 0) // units.Gi)
        return space["total"] // units.Gi, used

    def available_resource(self) -> dict[str, Any]:
        """Return what the resource tracker wants of a node."""
        total_gb, used_gb = self.pool_gb()
        topology = self.numa_topology()
        architecture = self._architecture()
        return {
            "vcpus": len(self.shared_cpus()),
            "vcpus_used": 0,
            "memory_mb": self.memory_mb(),
            "memory_mb_used": self.memory_mb_used(),
            "local_gb": total_gb,
            "local_gb_used": used_gb,
            "disk_available_least": total_gb - used_gb,
            "hypervisor_type": fields.HVType.LXD,
            "hypervisor_version": self.server_version(),
            "hypervisor_hostname": self.name,
            "cpu_info": json.dumps(self.cpu_info()),
            "supported_instances": [(architecture, fields.HVType.LXD, fields.VMMode.EXE)],
            "numa_topology": topology._to_json() if topology else None,
        }

    def _architecture(self) -> str:
        return fields.Architecture.canonicalize(self._resources["cpu"]["architecture"])

    def cpu_info(self) -> dict[str, Any]:
        """Return the model, vendor and features of the host's CPU (the guest sees the same)."""
        socket = self._resources["cpu"]["sockets"][0]
        return {
            "arch": self._architecture(),
            "model": socket.get("name", ""),
            "vendor": socket.get("vendor", ""),
            "features": sorted(_cpu_flags()),
            "topology": {
                "sockets": len(self._resources["cpu"]["sockets"]),
                "cores": len(socket["cores"]),
                "threads": max(len(core["threads"]) for core in socket["cores"]),
            },
        }

    def numa_topology(self) -> objects.NUMATopology | None:
        """Return the host's NUMA cells with the CPUs that instances may use."""
        shared, dedicated = self.shared_cpus(), self.dedicated_cpus()
        by_node: dict[int, dict[int, dict[str, Any]]] = collections.defaultdict(dict)
        for cpu, where in self.cpus().items():
            by_node[where["node"]][cpu] = where
        cells = []
        for memory in self._resources["memory"].get("nodes") or []:
            node = memory["numa_node"]
            cpus = by_node[node]
            cores: dict[Any, set[int]] = collections.defaultdict(set)
            for cpu, where in cpus.items():
                cores[where["core"]].add(cpu)
            sockets = {where["socket"] for where in cpus.values()}
            total_mb = memory["total"] // units.Mi
            cells.append(
                objects.NUMACell(
                    id=node,
                    socket=sockets.pop() if len(sockets) == 1 else None,
                    cpuset=set(cpus) & shared,
                    # without cpu_dedicated_set no instance may be pinned
                    pcpuset=set(cpus) & dedicated,
                    memory=total_mb,
                    cpu_usage=0,
                    pinned_cpus=set(),
                    memory_usage=0,
                    siblings=sorted(cores.values(), key=sorted),
                    mempages=_mempages(node, total_mb),
                    network_metadata=objects.NetworkMetadata(physnets=set(), tunneled=False),
                )
            )
        return objects.NUMATopology(cells=cells) if cells else None

    # -- placement --------------------------------------------------------------------------

    def inventory(self, ratios: dict[str, float], reserved_disk_gb: int) -> dict[str, Any]:
        """Return the placement inventory of the node."""
        total_gb, _ = self.pool_gb()
        amounts = {
            orc.VCPU: (len(self.shared_cpus()), CONF.reserved_host_cpus, ratios[orc.VCPU]),
            orc.PCPU: (len(self.dedicated_cpus()), 0, 1.0),
            orc.MEMORY_MB: (
                self.memory_mb(),
                CONF.reserved_host_memory_mb,
                ratios[orc.MEMORY_MB],
            ),
            orc.DISK_GB: (total_gb, reserved_disk_gb, ratios[orc.DISK_GB]),
        }
        return {
            resource: {
                "total": total,
                "min_unit": 1,
                "max_unit": total,
                "step_size": 1,
                "allocation_ratio": ratio,
                "reserved": reserved,
            }
            for resource, (total, reserved, ratio) in amounts.items()
            if total
        }

    def traits(self) -> set[str]:
        """Return the traits that the driver owns, capabilities not included."""
        found = {TRAIT_LXD}
        architecture = f"COMPUTE_ARCH_{self._architecture().upper()}"
        found |= {architecture} & set(os_traits.get_traits())
        vendor = self._resources["cpu"]["sockets"][0].get("vendor", "")
        found |= cputraits.of_flags(_cpu_flags(), self._architecture(), vendor)
        cores = collections.Counter(where["core"] for where in self.cpus().values())
        if max(cores.values(), default=1) > 1:
            found.add(os_traits.HW_CPU_HYPERTHREADING)
        return found

    # -- the running host -------------------------------------------------------------------

    def set_service_enabled(self, enabled: bool, reason: str) -> None:
        """Enable or disable the compute service; one that an operator disabled stays so."""
        context = nova_context.get_admin_context()
        try:
            service = objects.Service.get_by_compute_host(context, self.name)
        except nova_exception.ComputeHostNotFound:
            LOG.debug("The compute service is not registered yet")
            return
        ours = (service.disabled_reason or "").startswith(DISABLE_PREFIX)
        if service.disabled == (not enabled) or (service.disabled and not ours):
            return
        service.disabled = not enabled
        service.disabled_reason = None if enabled else (DISABLE_PREFIX + reason)[:255]
        service.save()
        LOG.info("Compute service %s", "enabled" if enabled else f"disabled: {reason}")


def uptime() -> str:
    """Return the host's uptime as uptime(1) prints it, without running a program."""
    seconds = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    days, rest = divmod(int(seconds), 86400)
    hours, minutes = divmod(rest // 60, 60)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    now = time.strftime("%H:%M:%S")
    # the API takes this apart by the commas: users must be there
    return f" {now} up {days} days, {hours:2d}:{minutes:02d},  0 users,  load average: {load}\n"


def cpu_stats() -> dict[str, int]:
    """Return the host's CPU times in nanoseconds and its frequency in MHz."""
    with pathlib.Path("/proc/stat").open() as stat:
        user, nice, system, idle, iowait = map(int, stat.readline().split()[1:6])
    to_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return {
        "kernel": system * to_ns,
        "idle": idle * to_ns,
        "user": (user + nice) * to_ns,
        "iowait": iowait * to_ns,
        "frequency": _cpu_mhz(),
    }


def _cpu_mhz() -> int:
    with pathlib.Path("/proc/cpuinfo").open() as cpuinfo:
        for line in cpuinfo:
            if line.startswith("cpu MHz"):
                return int(float(line.split(":")[1]))
    return 0


def _cpu_flags() -> set[str]:
    with pathlib.Path("/proc/cpuinfo").open() as cpuinfo:
        for line in cpuinfo:
            if line.startswith(("flags", "Features")):
                return set(line.split(":")[1].split())
    return set()


def _mempages(node: int, total_mb: int) -> list[objects.NUMAPagesTopology]:
    """Return the page pools of a NUMA node: normal pages and each size of huge pages."""
    small_kb = os.sysconf("SC_PAGESIZE") // units.Ki
    pools = {}
    directory = pathlib.Path(f"/sys/devices/system/node/node{node}/hugepages")
    for pool in directory.glob("hugepages-*kB") if directory.is_dir() else ():
        size_kb = int(pool.name.removeprefix("hugepages-").removesuffix("kB"))
        pools[size_kb] = int((pool / "nr_hugepages").read_text())
    huge_kb = sum(size * count for size, count in pools.items())
    pools[small_kb] = (total_mb * units.Ki - huge_kb) // small_kb
    return [
        objects.NUMAPagesTopology(size_kb=size, total=count, used=0, reserved=0)
        for size, count in sorted(pools.items())
    ]
