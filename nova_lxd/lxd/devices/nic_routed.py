# SPDX-License-Identifier: Apache-2.0
"""nic, nictype routed: the host routes single addresses to the instance over a veth pair.

With a parent the host answers ARP and NDP for the addresses there (proxy neighbours).
"""

from __future__ import annotations

import errno
import ipaddress
from contextlib import ExitStack

from nova_lxd.lxd.devices import nic_rules
from nova_lxd.lxd.devices.interface import Nic, RunConfig, Volatile
from nova_lxd.lxd.devices.nic import LIMITS, ROUTES, VethNic, address_keys, key_table, subnet
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.netlink import IPAddress, Link, Netlink
from nova_lxd.lxd.host.netlink_records import RT_TABLE_MAIN
from nova_lxd.lxd.network import links, values

_FAMILIES = ("ipv4", "ipv6")
_GATEWAYS = {"ipv4": "169.254.0.1", "ipv6": "fe80::1"}


class RoutedNic(VethNic):
    """LXD's nictype "routed"."""

    keys = key_table(
        "parent",
        "host_name",
        *LIMITS,
        *ROUTES,
        "ipv4.gateway",
        "ipv6.gateway",
        "ipv4.host_address",
        "ipv6.host_address",
        "ipv4.host_table",
        "ipv6.host_table",
        changed=address_keys(values.list_of(values.address_v4), values.list_of(values.address_v6)),
    )

    def check(self) -> None:
        for family in _FAMILIES:
            texts = values.split_list(self.get(f"{family}.address"))
            for text in texts:
                if texts.count(text) > 1:
                    raise BadRequest(
                        f'Duplicate address {values.quoted(text)} in "{family}.address"'
                    )
            if self.get(f"{family}.routes") and not texts:
                raise BadRequest(f"{family}.routes requires {family}.address to be set")

    def addresses(self, family: str) -> list[IPAddress]:
        """The addresses that are routed to the instance."""
        texts = values.split_list(self.get(f"{family}.address"))
        return [ipaddress.ip_address(text) for text in texts]

    def _gateway(self, family: str) -> IPAddress:
        return ipaddress.ip_address(self.get(f"{family}.host_address") or _GATEWAYS[family])

    def _check_host(self) -> None:
        """The administrator decides whether the host forwards between its networks."""
        parent = self.get("parent")
        needed = {
            "ipv4": [f"ipv4/conf/{parent}/forwarding"],
            "ipv6": [
                "ipv6/conf/all/forwarding",
                "ipv6/conf/all/proxy_ndp",
                f"ipv6/conf/{parent}/forwarding",
                f"ipv6/conf/{parent}/proxy_ndp",
            ],
        }
        for family in _FAMILIES:
            for key in needed[family] if parent and self.addresses(family) else ():
                if links.get_sysctl(key) != "1":
                    shown = "net." + key.replace("/", ".")
                    raise BadRequest(f"Routed mode requires sysctl {shown}=1")

    def start(self) -> RunConfig:
        chosen = self.add()
        self.with_volatile(chosen)
        with ExitStack() as undo, Netlink() as nl:
            parent = self.parent_link(nl, self.get("parent")) if self.get("parent") else None
            self._check_host()
            mtu = int(self.get("mtu")) if self.get("mtu") else parent.mtu if parent else None
            link = self.start_pair(nl, undo, mtu=mtu)
            links.set_sysctl(f"ipv6/conf/{link.name}/accept_ra", "0")
            links.set_sysctl(f"ipv4/conf/{link.name}/rp_filter", "1")
            nl.set_link(link.index, up=True)
            for family in _FAMILIES:
                self._route_family(nl, undo, family, link, parent)
            self.apply_filter(undo)
            undo.pop_all()
        run = self.run_config()
        run.volatile.update(chosen)
        return run

    def _route_family(
        self, nl: Netlink, undo: ExitStack, family: str, link: Link, parent: Link | None
    ) -> None:
        addresses = self.addresses(family)
        if not addresses:
            return
        gateway = self._gateway(family)
        nl.add_address(link.index, ipaddress.ip_interface(gateway))
        links.set_sysctl(f"{family}/conf/{link.name}/forwarding", "1")
        table = int(self.get(f"{family}.host_table") or RT_TABLE_MAIN)
        for address in addresses:
            whole = ipaddress.ip_network(address)
            for number in sorted({RT_TABLE_MAIN, table}):
                nl.add_route(whole, link.index, table=number)
            if parent is not None:
                nl.add_proxy_neighbour(address, parent.index)
                undo.callback(self._remove_proxies)
        for text in values.split_list(self.get(f"{family}.routes")):
            nl.add_route(subnet(text), link.index, gateway=addresses[0])

    def run_config(self) -> RunConfig:
        run = super().run_config()
        own = [a for family in _FAMILIES for a in self.addresses(family)]
        gateways = [
            self._gateway(family)
            for family in _FAMILIES
            if self.addresses(family) and self.get(f"{family}.gateway") != "none"
        ]
        run.nics = [
            Nic(
                link=nic.link,
                name=nic.name,
                hwaddr=nic.hwaddr,
                addresses=[ipaddress.ip_interface(a) for a in own],
                gateways=gateways,
            )
            for nic in run.nics
        ]
        return run

    def filter(self) -> nic_rules.Filter:
        # Only what is routed here may come from here.
        allowed = {
            family: [str(a) for a in self.addresses(family)]
            + values.split_list(self.get(f"{family}.routes"))
            for family in _FAMILIES
        }
        return nic_rules.Filter(
            ipv4=allowed["ipv4"],
            ipv6=allowed["ipv6"],
            egress=self.rates()[1],
            strict_neighbours=False,
        )

    def _remove_proxies(self) -> None:
        if not self.get("parent"):
            return
        with Netlink() as nl:
            parent = nl.find(self.get("parent"))
            if parent is None:
                return
            for address in (a for family in _FAMILIES for a in self.addresses(family)):
                try:
                    nl.delete_proxy_neighbour(address, parent.index)
                except OSError as exc:
                    if exc.errno not in (errno.ENOENT, errno.ENODEV):
                        raise

    def post_stop(self) -> Volatile:
        self._remove_proxies()
        return super().post_stop()
