# SPDX-License-Identifier: Apache-2.0
"""nic, nictype bridged: a veth pair in a bridge, a managed one or the administrator's."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from nova_lxd.lxd.devices import nic_rules
from nova_lxd.lxd.devices.interface import RunConfig, Volatile
from nova_lxd.lxd.devices.nic import (
    LIMITS,
    ROUTES,
    VethNic,
    address_keys,
    key_table,
    subnet,
)
from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.network import links, values
from nova_lxd.lxd.network.interface import HostEntry, Network
from nova_lxd.lxd.network.leases import AUTO
from nova_lxd.lxd.paths import DEFAULT_PROJECT

_FILTERS = ("security.mac_filtering", "security.ipv4_filtering", "security.ipv6_filtering")


def _address_or_none(check: values.Check) -> values.Check:
    def either(value: str) -> None:
        if value != "none":
            check(value)

    return either


class BridgedNic(VethNic):
    """LXD's nictype "bridged"."""

    keys = key_table(
        "network",
        "parent",
        "host_name",
        *LIMITS,
        *ROUTES,
        *_FILTERS,
        "security.port_isolation",
        changed=address_keys(
            _address_or_none(values.address_v4), _address_or_none(values.address_v6)
        ),
    )
    updatable = frozenset((*LIMITS, *ROUTES, *_FILTERS, "ipv4.address", "ipv6.address"))

    def network(self) -> Network | None:
        """The managed network of the bridge, None for a bridge of the administrator's."""
        name = self.get("network") or self.get("parent")
        return self.host.networks.find(self.instance.project, name) if name else None

    def parent(self) -> str:
        """The bridge's name on the host."""
        return self.get("network") or self.get("parent")

    # -- configuration ----------------------------------------------------------------------

    def check(self) -> None:
        if self.get("network"):
            for key in ("nictype", "parent", "mtu"):
                if self.get(key):
                    raise BadRequest(
                        f'Cannot use {values.quoted(key)} property in conjunction with "network"'
                        " property"
                    )
        elif not self.get("parent"):
            raise BadRequest('Invalid value for device option "parent": Required value')
        network = self.network()
        if self.get("network") and network is None:
            name = values.quoted(self.get("network"))
            raise BadRequest(f"Error loading network config for {name}: Network not found")
        for family in ("ipv4", "ipv6"):
            self._check_address(family, network)

    def _check_address(self, family: str, network: Network | None) -> None:
        address = self.get(f"{family}.address")
        if address in ("", "none") or self.instance.is_profile:
            return
        if network is None:
            if self.flag(f"security.{family}_filtering"):
                return
            raise BadRequest(
                f'Cannot use manually specified "{family}.address" when using unmanaged parent'
                " bridge"
            )
        config = network.config
        on = config.get(f"{family}.address", "none")
        if on in ("", "none") or values.is_false(config.get(f"{family}.dhcp")):
            raise BadRequest(
                f'Cannot specify "{family}.address" when DHCP is disabled on network'
                f" {values.quoted(network.name)}"
            )
        if family == "ipv6" and not values.is_true(config.get("ipv6.dhcp.stateful")):
            raise BadRequest(
                'Cannot specify "ipv6.address" when "ipv6.dhcp.stateful" is disabled on network'
                f" {values.quoted(network.name)}"
            )
        if ipaddress.ip_address(address) not in ipaddress.ip_interface(on).network:
            raise BadRequest(
                f"Device IP address {values.quoted(address)} not within network"
                f" {values.quoted(network.name)} subnet"
            )

    # -- life -------------------------------------------------------------------------------

    def add(self) -> Volatile:
        changes = super().add()
        self.with_volatile(changes)
        network = self.network()
        if network is not None:
            try:
                self._record(network)
            except Conflict:
                # A copy may keep its source's address, as in LXD: only one of them can run.
                if not self.instance.is_new:
                    raise
        return changes

    def _record(self, network: Network) -> HostEntry:
        """Tell the network's DHCP and DNS about the nic."""
        inst = self.instance
        wanted = {family: self._wanted_address(family, network) for family in ("ipv4", "ipv6")}
        name = inst.name if inst.project == DEFAULT_PROJECT else f"{inst.name}.{inst.project}"
        return network.set_host(
            HostEntry(inst.stored_name, self.name, self.hwaddr(), name, **wanted)
        )

    def _wanted_address(self, family: str, network: Network) -> str:
        """The address for DHCP to give: set, needed for a filter, or the empty text."""
        address = self.get(f"{family}.address")
        if address == "none":
            return ""
        if address or not self.flag(f"security.{family}_filtering"):
            return address
        on = network.config.get(f"{family}.address", "none")
        if on in ("", "none") or values.is_false(network.config.get(f"{family}.dhcp")):
            return ""
        if family == "ipv6" and not values.is_true(network.config.get("ipv6.dhcp.stateful")):
            return ""
        return AUTO

    def start(self) -> RunConfig:
        chosen = self.add()
        with ExitStack() as undo, Netlink() as nl:
            parent = self.parent_link(nl, self.parent())
            mtu = int(self.get("mtu")) if self.get("mtu") else parent.mtu
            link = self.start_pair(nl, undo, mtu=mtu)
            # The bridge speaks for the host; its ports need no address of their own.
            links.set_sysctl(f"ipv6/conf/{link.name}/disable_ipv6", "1")
            nl.set_link(link.index, master=parent.index, up=True)
            if self.flag("security.port_isolation"):
                nl.set_bridge_port(link.index, isolated=True)
            self.apply_filter(undo)
            for text in self._routes(self.config):
                nl.add_route(subnet(text), parent.index)
                undo.callback(self._remove_routes, self.config)
            undo.pop_all()
        run = self.run_config()
        run.volatile.update(chosen)
        return run

    @staticmethod
    def _routes(config: Mapping[str, str]) -> Iterator[str]:
        for key in ROUTES:
            yield from values.split_list(config.get(key))

    def _remove_routes(self, config: Mapping[str, str]) -> None:
        doomed = {subnet(text) for text in self._routes(config)}
        if not doomed:
            return
        with Netlink() as nl:
            parent = nl.find(self.parent())
            if parent is None:
                return
            for route in nl.routes():
                if route.index == parent.index and route.destination in doomed:
                    nl.delete_route(route.destination, route.index)

    def filter(self) -> nic_rules.Filter:
        allowed = {
            family: self._allowed(family) if self.flag(f"security.{family}_filtering") else None
            for family in ("ipv4", "ipv6")
        }
        # Addresses mean little when the guest can change its MAC: the filters bring each other.
        by_mac = self.flag("security.mac_filtering") or any(
            a is not None for a in allowed.values()
        )
        return nic_rules.Filter(
            hwaddr=self.hwaddr() if by_mac else "",
            ipv4=allowed["ipv4"],
            ipv6=allowed["ipv6"],
            egress=self.rates()[1],
        )

    def _allowed(self, family: str) -> list[str]:
        """The sources that a filtered nic may use; none blocks the family."""
        if self.get(f"{family}.address") == "none":
            return []
        routed = values.split_list(self.get(f"{family}.routes"))
        fixed = self.get(f"{family}.address")
        if fixed:
            return [fixed, *routed]
        network = self.network()
        if network is None:
            return []
        for lease in network.leases():
            version = "ipv4" if ipaddress.ip_address(lease.address).version == 4 else "ipv6"
            if lease.kind == "static" and lease.hwaddr == self.hwaddr() and version == family:
                return [lease.address, *routed]
        on = network.config.get("ipv6.address", "none")
        if family == "ipv6" and on not in ("", "none"):
            # Guests choose their address themselves out of the network's prefix.
            prefix = ipaddress.IPv6Interface(on).network
            return [str(nic_rules.eui64(prefix, self.hwaddr())), *routed]
        return []

    def update(self, old: Mapping[str, str]) -> RunConfig:
        network = self.network()
        if network is not None:
            self._record(network)
        run = super().update(old)
        if self.instance.init_pid is not None:
            gone = set(self._routes(old)) - set(self._routes(self.config))
            self._remove_routes({"ipv4.routes": ",".join(gone)})
            with Netlink() as nl:
                parent = self.parent_link(nl, self.parent())
                # The bridge may be another one than at the start, made anew under its name.
                host = nl.find(self.host_name())
                if host is not None and host.master != parent.index:
                    nl.set_link(host.index, master=parent.index)
                for text in self._routes(self.config):
                    nl.add_route(subnet(text), parent.index)
        return run

    def post_stop(self) -> Volatile:
        self._remove_routes(self.config)
        return super().post_stop()

    def remove(self) -> None:
        network = self.network()
        if network is not None:
            network.forget_host(self.instance.stored_name, self.name)
