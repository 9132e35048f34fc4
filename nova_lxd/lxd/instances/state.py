# SPDX-License-Identifier: Apache-2.0
"""What an instance uses right now (LXD API: InstanceState), read cheaply."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.errors import LXDError, refused_by_host
from nova_lxd.lxd.host import netstate
from nova_lxd.lxd.instances import volumes
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import STATUS_TEXT, Instance
from nova_lxd.lxd.storage.volume import VolumeType

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

_STOPPED_MEMORY = {"usage": 0, "usage_peak": 0, "swap_usage": 0, "swap_usage_peak": 0}


class Usage:
    """What is the same however many instances are shown: pools' usage, the way to the kernel.

    A context manager.
    """

    def __init__(self, svc: Instances) -> None:
        self._svc = svc
        self._pools: dict[str, Mapping[str, int]] = {}
        self._reader: netstate.Reader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._reader is not None:
            self._reader.close()

    def interfaces(self, pid: int) -> Mapping[str, netstate.InterfaceState]:
        """The interfaces that a process sees.

        :raises ProcessLookupError: it has ended.
        """
        if self._reader is None:
            self._reader = netstate.Reader()
        return self._reader.of_process(pid)

    @staticmethod
    def interface(index: int) -> str:
        """The name of an interface of the host; empty when there is none."""
        try:
            # Asked one by one: the kernel takes longer for a list of n veths than n times one.
            return socket.if_indextoname(index)
        except OSError as exc:
            if exc.errno not in (errno.ENXIO, errno.ENODEV):
                raise
            return ""

    def of(self, record: InstanceRecord) -> int | None:
        """What an instance uses of its pool, None when the pool does not tell."""
        known = self._pools.get(record.pool)
        if known is None:
            try:
                driver = volumes.driver(self._svc.ctx, record.pool)
                known = driver.usages(VolumeType.CONTAINER)
            except LXDError:  # a pool that is unavailable must not hide the instances
                known = {}
            self._pools[record.pool] = known
        return known.get(volumes.of_record(record).name)


def of_instance(
    svc: Instances, inst: Instance, record: InstanceRecord, expanded: Expanded, usage: Usage
) -> dict[str, Any]:
    """The state of one instance as the API shows it."""
    root = expanded.root
    used = usage.of(record) if root else None
    answer: dict[str, Any] = {
        "status": STATUS_TEXT[inst.status],
        "status_code": inst.status,
        "disk": {root[0]: {"usage": used}} if root and used is not None else {},
        "memory": dict(_STOPPED_MEMORY),
        "network": None,
        "pid": 0,
        "processes": 0,
        "cpu": {"usage": 0},
    }
    running = inst.running
    if running is None:
        return answer
    try:
        answer.update(_running(svc, inst, running.init, usage))
    except (ProcessLookupError, FileNotFoundError):
        # It ended while we looked.
        answer.update(status=STATUS_TEXT[inst.status], status_code=inst.status)
    except OSError as exc:
        raise refused_by_host(f"Reading the state of {inst}", exc) from exc
    return answer


def _running(svc: Instances, inst: Instance, pid: int, usage: Usage) -> dict[str, Any]:
    group = svc.cgroup(inst)
    if group is None:
        return {}
    memory = group.memory()
    return {
        "pid": pid,
        "processes": group.tasks(),
        "cpu": {"usage": int(group.cpu_seconds() * 1e9)},
        "memory": {
            "usage": max(0, memory.usage),
            "usage_peak": max(0, memory.peak),
            "swap_usage": max(0, memory.swap),
            "swap_usage_peak": max(0, memory.swap_peak),
        },
        "network": _network(pid, usage),
    }


def _network(pid: int, usage: Usage) -> dict[str, Any]:
    """Interfaces inside with the host's name of the other end of each pair."""
    states = usage.interfaces(pid)
    return {
        name: {
            "addresses": [
                {
                    "family": a.family,
                    "address": a.address,
                    "netmask": a.netmask,
                    "scope": a.scope,
                }
                for a in state.addresses
            ],
            "counters": {
                "bytes_received": state.counters.bytes_received,
                "bytes_sent": state.counters.bytes_sent,
                "packets_received": state.counters.packets_received,
                "packets_sent": state.counters.packets_sent,
                "errors_received": state.counters.errors_received,
                "errors_sent": state.counters.errors_sent,
                "packets_dropped_outbound": state.counters.packets_dropped_outbound,
                "packets_dropped_inbound": state.counters.packets_dropped_inbound,
            },
            "hwaddr": "" if state.type == "loopback" else state.hwaddr,
            "host_name": usage.interface(state.host_index) if state.host_index else "",
            "mtu": state.mtu,
            "state": state.state,
            "type": state.type,
        }
        for name, state in states.items()
    }
