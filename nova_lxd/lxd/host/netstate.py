# SPDX-License-Identifier: Apache-2.0
"""The interfaces of a network namespace with addresses and counters, as LXD's state shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from nova_lxd.lxd.host.netlink import Address, Counters, Link, Netlink


@dataclass(frozen=True)
class AddressState:
    """``netmask`` is the length of the prefix; scope is global, link or local.

    LXD API: InstanceStateNetworkAddress and NetworkStateAddress.
    """

    family: str
    address: str
    netmask: str
    scope: str


@dataclass(frozen=True)
class InterfaceState:
    """One interface.  ``host_index`` is the host's end of a veth pair, 0 when there is none."""

    name: str
    index: int
    hwaddr: str
    mtu: int
    state: str  # up, down
    type: str  # broadcast, loopback, point-to-point, unknown
    kind: str  # the kernel's: veth, bridge, …; "" when physical
    master: int
    host_index: int
    counters: Counters
    addresses: list[AddressState] = field(default_factory=list)


def of_host() -> dict[str, InterfaceState]:
    """The interfaces of our own network namespace by name."""
    with Netlink() as connection:
        return _read(connection)


def of_process(pid: int) -> dict[str, InterfaceState]:
    """The interfaces in the network namespace of a process (a container's init) by name.

    :raises ProcessLookupError: it has ended.
    """
    try:
        with Netlink.of_process(pid) as connection:
            return _read(connection)
    except FileNotFoundError as exc:
        raise ProcessLookupError(f"process {pid} has ended") from exc


def address_state(address: Address) -> AddressState:
    """One address as LXD shows it."""
    interface = address.interface
    family = "inet" if interface.version == 4 else "inet6"
    return AddressState(
        family, str(interface.ip), str(interface.network.prefixlen), address.scope
    )


def _read(connection: Netlink) -> dict[str, InterfaceState]:
    states = {link.index: _state(link) for link in connection.links()}
    for address in connection.addresses():
        if address.index in states:
            states[address.index].addresses.append(address_state(address))
    return {state.name: state for state in states.values()}


def _state(link: Link) -> InterfaceState:
    return InterfaceState(
        link.name,
        link.index,
        link.hwaddr,
        link.mtu,
        "up" if link.up else "down",
        link.hardware,
        link.kind,
        link.master,
        link.link if link.kind == "veth" and link.link_netnsid is not None else 0,
        link.counters,
    )
