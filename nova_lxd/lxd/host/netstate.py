# SPDX-License-Identifier: Apache-2.0
"""The interfaces of a network namespace with addresses and counters, as LXD's state shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from nova_lxd.lxd.host import netlink

_SCOPES = {
    netlink.RT_SCOPE_GLOBAL: "global",
    netlink.RT_SCOPE_LINK: "link",
    netlink.RT_SCOPE_HOST: "local",
}


@dataclass(frozen=True)
class AddressState:
    """``netmask`` is the length of the prefix; scope is global, link or local."""

    family: str
    address: str
    netmask: str
    scope: str


@dataclass(frozen=True)
class Counters:
    """LXD's InstanceStateNetworkCounters, seen from the interface."""

    bytes_received: int
    bytes_sent: int
    packets_received: int
    packets_sent: int
    errors_received: int
    errors_sent: int
    packets_dropped_outbound: int
    packets_dropped_inbound: int


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
    return _read("")


def of_process(pid: int) -> dict[str, InterfaceState]:
    """The interfaces in the network namespace of a process (a container's init) by name.

    :raises ProcessLookupError: it has ended.
    """
    try:
        return _read(f"/proc/{pid}/ns/net")
    except FileNotFoundError as exc:
        raise ProcessLookupError(f"process {pid} has ended") from exc


def _read(namespace: str) -> dict[str, InterfaceState]:
    with netlink.Netlink(namespace) as connection:
        links = connection.links()
        addresses = connection.addresses()
    states = {link.index: _state(link) for link in links}
    for a in addresses:
        if a.index in states:
            scope = _SCOPES.get(a.scope, "global")
            states[a.index].addresses.append(
                AddressState(a.family, a.address, str(a.prefix), scope)
            )
    return {state.name: state for state in states.values()}


def _state(link: netlink.Link) -> InterfaceState:
    if link.flags & netlink.IFF_LOOPBACK:
        kind = "loopback"
    elif link.flags & netlink.IFF_POINTOPOINT:
        kind = "point-to-point"
    elif link.flags & netlink.IFF_BROADCAST:
        kind = "broadcast"
    else:
        kind = "unknown"
    counters = Counters(
        link.rx_bytes,
        link.tx_bytes,
        link.rx_packets,
        link.tx_packets,
        link.rx_errors,
        link.tx_errors,
        link.tx_dropped,
        link.rx_dropped,
    )
    return InterfaceState(
        link.name,
        link.index,
        link.hwaddr,
        link.mtu,
        "up" if link.flags & netlink.IFF_UP else "down",
        kind,
        link.kind,
        link.master,
        link.peer if link.kind == "veth" and link.peer_elsewhere else 0,
        counters,
    )


def move_in(name: str, pid: int, inner: str, *, hwaddr: str = "", mtu: int = 0) -> None:
    """Give an interface of the host to a running container, under the name ``inner``.

    :raises OSError: ENODEV when the host lacks it, EEXIST when ``inner`` is taken.
    """
    _move("", f"/proc/{pid}/ns/net", name, inner, hwaddr, mtu)


def move_out(pid: int, inner: str, name: str, *, hwaddr: str = "", mtu: int = 0) -> None:
    """Take an interface back from a running container to the host, as ``name``.

    :raises OSError: ENODEV when the container lacks it, EEXIST when ``name`` is taken.
    """
    _move(f"/proc/{pid}/ns/net", "/proc/self/ns/net", inner, name, hwaddr, mtu)


def _move(source: str, target: str, name: str, new_name: str, hwaddr: str, mtu: int) -> None:
    with netlink.Netlink(source) as connection:
        link = connection.link(name)
        if link is None:
            raise OSError(19, f"there is no interface '{name}'")
        # Renaming and a new hardware address ask for an interface that is down.
        connection.set_link(link.index, up=False)
        if hwaddr or mtu:
            connection.set_link(link.index, hwaddr=hwaddr, mtu=mtu)
        connection.set_link(link.index, name=new_name, namespace=target)
