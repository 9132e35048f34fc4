# SPDX-License-Identifier: Apache-2.0
"""What every kind of managed network can do, and the values that go in and out of it."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nova_lxd.lxd.host.netlink import Counters
from nova_lxd.lxd.host.netstate import AddressState


@dataclass(frozen=True)
class Lease:
    """One address of a network (LXD API: NetworkLease); ``kind`` is static, dynamic or gateway."""

    hostname: str
    hwaddr: str
    address: str
    kind: str
    project: str = ""


@dataclass(frozen=True)
class BridgeState:
    """What the kernel says of a bridge (LXD API: NetworkStateBridge)."""

    id: str
    stp: bool
    forward_delay: int
    vlan_default: int
    vlan_filtering: bool
    upper_devices: Sequence[str]


@dataclass(frozen=True)
class NetworkState:
    """What the kernel says of an interface (LXD API: NetworkState); ``state`` is up or down."""

    addresses: Sequence[AddressState]
    counters: Counters
    hwaddr: str
    mtu: int
    state: str
    kind: str
    bridge: BridgeState | None = None


@dataclass(frozen=True)
class HostEntry:
    """One nic's place in a network: what DHCP gives it and which name DNS knows it by.

    ``owner`` is the instance's stored name and ``device`` the nic's: together they name the file.
    """

    owner: str
    device: str
    hwaddr: str
    hostname: str
    ipv4: str = ""
    ipv6: str = ""


class Network(abc.ABC):
    """A network that the daemon manages.

    An object is a view of one stored configuration and holds no state of its own: two objects of
    the same network and configuration do the same, before and after a restart of the daemon.
    Callers serialise the verbs per network.
    """

    kind: str

    def __init__(self, name: str, config: Mapping[str, str]) -> None:
        self.name = name
        self.config = dict(config)

    @classmethod
    @abc.abstractmethod
    def fill_config(cls, config: Mapping[str, str]) -> dict[str, str]:
        """The configuration of a new network with LXD's defaults written out; changes nothing."""

    @abc.abstractmethod
    def validate(self) -> None:
        """Check name and configuration.  BadRequest: something in it is wrong."""

    @abc.abstractmethod
    def choose_addresses(self, taken: Sequence[str] = ()) -> dict[str, str]:
        """The configuration with every ``auto`` replaced by a subnet that nothing here uses.

        :param taken: CIDR subnets of other networks that may not be up.
        """

    @abc.abstractmethod
    def create(self) -> None:
        """Claim the name and directory.  Conflict: the host has an interface so named."""

    @abc.abstractmethod
    def start(self) -> None:
        """Bring the host to what the configuration says; idempotent, also after a crash.

        What was half made is undone when it fails, unless the network was up already.
        """

    @abc.abstractmethod
    def update(self, config: Mapping[str, str]) -> None:
        """Take a new, validated configuration and apply it; instances may run meanwhile."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Take everything of the network off the host; idempotent.  Leases stay on disk."""

    @abc.abstractmethod
    def delete(self) -> None:
        """Stop it and remove its files; idempotent."""

    @abc.abstractmethod
    def is_up(self) -> bool:
        """Is its interface there and up?"""

    @abc.abstractmethod
    def state(self) -> NetworkState:
        """What the kernel says of its interface.  NotFound: it is not there."""

    @abc.abstractmethod
    def leases(self) -> list[Lease]:
        """The gateway's, static and dynamic leases."""

    @abc.abstractmethod
    def set_host(self, entry: HostEntry) -> HostEntry:
        """Record a nic for DHCP and DNS, at once in force; idempotent.

        Returns the entry as recorded.
        """

    @abc.abstractmethod
    def forget_host(self, owner: str, device: str) -> None:
        """Remove the record of a nic and release its leases; idempotent."""
