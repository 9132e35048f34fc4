# SPDX-License-Identifier: Apache-2.0
"""An instance's run-time numbers, from LXD's state of it."""

from __future__ import annotations

from typing import Any

import nova.conf
from nova.compute import power_state
from nova.objects import diagnostics
from oslo_utils import units

from nova_lxd.virt import metadata

CONF = nova.conf.CONF

# Nova's enumeration has five names and lxd is none of them. It is checked where the object is
# read, on the API hosts, as well, and the API promises its users one of those names: a name of
# our own, or none, would make an error of each answer. So this is the nearest, of the driver that
# knows LXC as well, and ``hypervisor`` tells what it is.
DRIVER = "libvirt"
HYPERVISOR = "lxd"


def legacy(state: dict[str, Any]) -> dict[str, int]:
    """Return the flat form of API versions before 2.48."""
    numbers = {
        "cpu0_time": state["cpu"]["usage"],
        "memory": state["memory"]["usage"] // units.Ki,
        "memory-peak": state["memory"]["usage_peak"] // units.Ki,
        "processes": state["processes"],
    }
    for name, disk in (state["disk"] or {}).items():
        numbers[f"disk_{name}_usage"] = disk["usage"]
    for name, nic in _nics(state):
        counters = nic["counters"]
        numbers[f"{name}_rx"] = counters["bytes_received"]
        numbers[f"{name}_tx"] = counters["bytes_sent"]
        numbers[f"{name}_rx_packets"] = counters["packets_received"]
        numbers[f"{name}_tx_packets"] = counters["packets_sent"]
    return numbers


def standard(instance: Any, state: dict[str, Any], power: int) -> diagnostics.Diagnostics:
    """Return the object of API 2.48."""
    result = diagnostics.Diagnostics(
        state=power_state.STATE_MAP[power],
        driver=DRIVER,
        hypervisor=HYPERVISOR,
        hypervisor_os="linux",
        config_drive=metadata.wanted(instance),
    )
    # LXD counts an instance's CPU time as a whole
    result.add_cpu(id=0, time=state["cpu"]["usage"])
    for _, nic in _nics(state):
        counters = nic["counters"]
        result.add_nic(
            mac_address=nic["hwaddr"],
            rx_octets=counters["bytes_received"],
            rx_packets=counters["packets_received"],
            rx_errors=counters.get("errors_received"),
            rx_drop=counters.get("packets_dropped_inbound"),
            tx_octets=counters["bytes_sent"],
            tx_packets=counters["packets_sent"],
            tx_errors=counters.get("errors_sent"),
            tx_drop=counters.get("packets_dropped_outbound"),
        )
    result.memory_details = diagnostics.MemoryDiagnostics(
        maximum=instance.flavor.memory_mb, used=state["memory"]["usage"] // units.Mi
    )
    return result


def _nics(state: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return sorted((n, nic) for n, nic in (state["network"] or {}).items() if n != "lo")
