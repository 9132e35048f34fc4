# SPDX-License-Identifier: Apache-2.0
"""The interfaces of a network namespace with addresses and counters, as LXD's state shows them."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import Self

from nova_lxd.lxd.host.netlink import Address, Counters, Link, Netlink

_LINK_4, _LOOPBACK_6 = bytes((169, 254)), bytes(15) + b"\x01"


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


class Reader:
    """Reads the interfaces of other namespaces through one socket in ours; a context manager.

    Nothing enters a namespace: the kernel answers for the one that is named in the question.
    """

    def __init__(self) -> None:
        self._netlink = Netlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def of_process(self, pid: int) -> dict[str, InterfaceState]:
        """The interfaces in the network namespace of a process (a container's init) by name.

        :raises ProcessLookupError: it has ended.
        """
        nsid = self._netlink.namespace_id(pid)
        try:
            states = {link.index: _state(link) for link in self._netlink.links(nsid)}
            for index, packed, prefix in self._netlink.address_records(nsid):
                if index in states:
                    states[index].addresses.append(_packed_state(packed, prefix))
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise ProcessLookupError(f"the namespace of process {pid} has gone") from exc
        if self._netlink.namespace_id(pid) != nsid:  # its number may be another's by now
            raise ProcessLookupError(f"process {pid} has ended")
        return {state.name: state for state in states.values()}


def of_host() -> dict[str, InterfaceState]:
    """The interfaces of our own network namespace by name."""
    with Netlink() as connection:
        return _read(connection)


def of_process(pid: int) -> dict[str, InterfaceState]:
    """As :meth:`Reader.of_process`, for one."""
    with Reader() as reader:
        return reader.of_process(pid)


def _packed_state(packed: bytes, prefix: int) -> AddressState:
    if len(packed) == 4:
        scope = "local" if packed[0] == 127 else "link" if packed[:2] == _LINK_4 else "global"
        return AddressState("inet", socket.inet_ntoa(packed), str(prefix), scope)
    if packed == _LOOPBACK_6:
        scope = "local"
    else:
        scope = "link" if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 else "global"
    return AddressState("inet6", socket.inet_ntop(socket.AF_INET6, packed), str(prefix), scope)


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
