# SPDX-License-Identifier: Apache-2.0
"""Managed bridges: a Linux bridge with addresses, DHCP and DNS by dnsmasq, and NAT by nftables."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from nova_lxd.lxd.errors import BadRequest, Conflict, InternalError
from nova_lxd.lxd.host.netlink import Interface, Link, Netlink
from nova_lxd.lxd.host.netlink_records import RTPROT_STATIC
from nova_lxd.lxd.network import bridge_rules, dnsmasq, firewall, leases, links, values
from nova_lxd.lxd.network.bridge_keys import KEYS
from nova_lxd.lxd.network.interface import HostEntry, Lease, Network, NetworkState
from nova_lxd.lxd.paths import Paths, split_storage_name

LOG = logging.getLogger(__name__)

_FAMILIES = ("ipv4", "ipv6")
_TRIES = 200


class Bridge(Network):
    """LXD's network type "bridge"."""

    kind = "bridge"

    def __init__(self, paths: Paths, name: str, config: Mapping[str, str]) -> None:
        super().__init__(name, config)
        self.paths = paths
        self.directory = paths.network(name)
        self.dnsmasq = dnsmasq.Dnsmasq(self.directory, name)

    # -- configuration ----------------------------------------------------------------------

    @classmethod
    def fill_config(cls, config: Mapping[str, str]) -> dict[str, str]:
        filled = {key: value for key, value in config.items() if value}
        filled.setdefault("ipv4.address", "auto")
        if (
            "ipv6.address" not in filled
            and links.get_sysctl("ipv6/conf/default/disable_ipv6") == "0"
        ):
            filled["ipv6.address"] = "auto"
        for family in _FAMILIES:
            if filled.get(f"{family}.address") == "auto":
                filled.setdefault(f"{family}.nat", "true")
        return filled

    def validate(self) -> None:
        try:
            values.interface_name(self.name)
        except ValueError as exc:
            raise BadRequest(f"Invalid network name {values.quoted(self.name)}: {exc}")
        subject = f"network {values.quoted(self.name)} option"
        values.check_config(
            self.config,
            KEYS,
            invalid=lambda key, why: f"Invalid value for {subject} {values.quoted(key)}: {why}",
            unknown=lambda key: f"Invalid option for {subject} {values.quoted(key)}",
        )
        for family in _FAMILIES:
            self._validate_family(family)
        mtu = int(self.config.get("bridge.mtu") or 1500)
        if mtu < 1280 and self._address("ipv6"):
            raise BadRequest("The minimum MTU for an IPv6 network is 1280")

    def _validate_family(self, family: str) -> None:
        """Ranges and the gateway have to lie in the subnet of the bridge."""
        address = self._address(family)
        if address is None:
            return
        for text in values.split_list(self.config.get(f"{family}.dhcp.ranges")):
            span = leases.Range.parse(text)
            if span.first not in address.network or span.last not in address.network:
                raise BadRequest(
                    f"Invalid value for network {values.quoted(self.name)} option"
                    f' "{family}.dhcp.ranges": {text} is not in subnet {address.network}'
                )

    def _address(self, family: str) -> Interface | None:
        text = self.config.get(f"{family}.address", "none")
        return None if text in ("", "none", "auto") else ipaddress.ip_interface(text)

    def choose_addresses(self, taken: Sequence[str] = ()) -> dict[str, str]:
        chosen = dict(self.config)
        wanted = [f for f in _FAMILIES if chosen.get(f"{f}.address") == "auto"]
        if wanted:
            with Netlink() as nl:
                used = links.used_subnets(nl)
            used += [ipaddress.ip_interface(text).network for text in taken]
            for family in wanted:
                chosen[f"{family}.address"] = _free_subnet(family, used)
        return chosen

    def hwaddr(self) -> str:
        """The MAC address of the bridge; without one set it follows from the daemon and name."""
        set_one = self.config.get("bridge.hwaddr") or self.config.get("volatile.bridge.hwaddr")
        if set_one:
            return set_one.lower()
        digest = hashlib.sha256(f"{self.paths.tag} {self.name}".encode()).digest()
        return "00:16:3e:" + digest[:3].hex(":")

    # -- life -------------------------------------------------------------------------------

    def create(self) -> None:
        if links.exists(self.name):
            raise Conflict(f"Network interface {values.quoted(self.name)} already exists")
        # dnsmasq reads its host files as another user: it has to get through, not to list.
        for directory in (self.paths.networks, self.directory):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    def start(self) -> None:
        for directory in (self.paths.networks, self.directory):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        with ExitStack() as undo, Netlink() as nl:
            link = nl.find(self.name)
            fresh = link is None
            if link is None:
                nl.create_bridge(self.name, address=self.hwaddr())
                undo.callback(self.stop)
                link = nl.link(self.name)
            elif link.kind != "bridge":
                raise Conflict(
                    f"Starting network {self.name} failed: the host's interface of this name"
                    " is no bridge; rename one of them"
                )
            moved = self._configure_link(nl, link)
            self._enter_external_interfaces(nl, link)
            self._apply_firewall()
            self._serve(restart=fresh or moved)
            undo.pop_all()
        LOG.info("Network %s is up", self.name)

    def _configure_link(self, nl: Netlink, link: Link) -> bool:
        """Settings, addresses and routes; True when an address of the bridge has changed."""
        mtu = int(self.config.get("bridge.mtu") or 1500)
        hwaddr = self.hwaddr()
        nl.set_link(
            link.index,
            mtu=mtu if link.mtu != mtu else None,
            address=hwaddr if link.address != hwaddr else "",
        )
        address_v6 = self._address("ipv6")
        links.set_sysctl(f"ipv6/conf/{self.name}/disable_ipv6", "0" if address_v6 else "1")
        links.set_sysctl(f"ipv6/conf/{self.name}/autoconf", "0")
        links.set_sysctl(f"ipv6/conf/{self.name}/accept_ra", "0")
        links.set_sysctl(f"ipv6/conf/{self.name}/accept_dad", "0")
        nl.set_link(link.index, up=True)
        self._set_forwarding()
        wanted = {a for a in (self._address("ipv4"), address_v6) if a is not None}
        present = {
            item.interface
            for item in nl.addresses(link.index)
            if not item.interface.ip.is_link_local or item.interface in wanted
        }
        for address in present - wanted:
            nl.delete_address(link.index, address)
        for address in wanted - present:
            nl.add_address(link.index, address)
        self._set_routes(nl, link)
        return present != wanted

    def _set_forwarding(self) -> None:
        if self._address("ipv4") and not values.is_false(self.config.get("ipv4.routing")):
            links.set_sysctl("ipv4/ip_forward", "1")
        if self._address("ipv6") and not values.is_false(self.config.get("ipv6.routing")):
            self._forward_v6()

    def _forward_v6(self) -> None:
        """Turn on IPv6 forwarding of the host without losing its own router advertisements.

        The kernel ignores advertisements on an interface that forwards unless accept_ra is 2.
        """
        if links.get_sysctl("ipv6/conf/all/forwarding") == "1":
            return
        with Netlink() as nl:
            names = [link.name for link in nl.links()]
        for name in names:
            if links.get_sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
                links.set_sysctl(f"ipv6/conf/{name}/accept_ra", "2")
        links.set_sysctl("ipv6/conf/all/forwarding", "1")

    def _set_routes(self, nl: Netlink, link: Link) -> None:
        wanted = {
            ipaddress.ip_network(text)
            for family in _FAMILIES
            for text in values.split_list(self.config.get(f"{family}.routes"))
        }
        # Routes of nics (ipv4.routes of a device) have another protocol and are left alone.
        present = {
            route.destination
            for route in nl.routes()
            if route.index == link.index and route.protocol == RTPROT_STATIC
        }
        for subnet in present - wanted:
            nl.delete_route(subnet, link.index)
        for subnet in wanted - present:
            nl.add_route(subnet, link.index, protocol=RTPROT_STATIC)

    def _external_interfaces(self) -> list[str]:
        return values.split_list(self.config.get("bridge.external_interfaces"))

    def _enter_external_interfaces(self, nl: Netlink, bridge: Link) -> None:
        for item in self._external_interfaces():
            name, *vlan = item.split("/")
            link = nl.find(name)
            if link is None and vlan:
                parent = nl.link(vlan[0])
                nl.create_vlan(name, parent.index, int(vlan[1]))
                link = nl.link(name)
            if link is None:
                LOG.warning("Network %s: external interface %s is not there", self.name, name)
                continue
            if link.master == bridge.index:
                continue
            if any(not a.interface.ip.is_link_local for a in nl.addresses(link.index)):
                raise BadRequest(
                    f"Only unconfigured network interfaces can be bridged: {name} has an address"
                )
            nl.set_link(link.index, up=True, master=bridge.index)

    def _leave_external_interfaces(self, names: Sequence[str]) -> None:
        with Netlink() as nl:
            bridge = nl.find(self.name)
            for name in names:
                link = nl.find(name.split("/")[0])
                if link is not None and bridge is not None and link.master == bridge.index:
                    nl.set_link(link.index, master=0)

    def _table(self) -> str:
        return firewall.table_name(self.paths.tag, "net", self.name)

    def _apply_firewall(self) -> None:
        chains = bridge_rules.chains(self.name, self.config)
        if chains:
            firewall.apply(firewall.Table("inet", self._table(), chains))
        else:
            firewall.remove("inet", self._table())

    def _serve(self, *, restart: bool) -> None:
        if self._address("ipv4") is None and self._address("ipv6") is None:
            self.dnsmasq.stop()
            return
        self.dnsmasq.ensure(
            dnsmasq.arguments(self.name, self.config),
            self.config.get("raw.dnsmasq", ""),
            restart=restart,
        )

    def update(self, config: Mapping[str, str]) -> None:
        old = Bridge(self.paths, self.name, self.config)
        self.config = dict(config)
        if not self.is_up():
            return
        try:
            self._leave_external_interfaces(
                [n for n in old._external_interfaces() if n not in self._external_interfaces()]
            )
            self.start()
        except Exception:
            LOG.warning("Network %s: the new configuration failed, going back", self.name)
            old.start()
            raise

    def stop(self) -> None:
        self.dnsmasq.stop()
        self._leave_external_interfaces(self._external_interfaces())
        firewall.remove("inet", self._table())
        with Netlink() as nl:
            link = nl.find(self.name)
            if link is not None and link.kind == "bridge":
                with links.gone_is_fine():
                    nl.delete_link(link.index)

    def delete(self) -> None:
        if self.directory.is_dir():
            self.stop()
            shutil.rmtree(self.directory)

    def is_up(self) -> bool:
        with Netlink() as nl:
            link = nl.find(self.name)
            return link is not None and link.kind == "bridge" and link.up

    def state(self) -> NetworkState:
        return links.state(self.name)

    # -- nics -------------------------------------------------------------------------------

    def leases(self) -> list[Lease]:
        found: list[Lease] = []
        for family in _FAMILIES:
            address = self._address(family)
            if address is not None:
                found.append(Lease(f"{self.name}.gw", "", str(address.ip), "gateway"))
        known: dict[str, str] = {}
        fixed: set[str] = set()
        for entry in self.dnsmasq.hosts.entries():
            project, name = split_storage_name(entry.owner)
            known[entry.hwaddr] = project
            for text in filter(None, (entry.ipv4, entry.ipv6)):
                fixed.add(text)
                found.append(Lease(name, entry.hwaddr, text, "static", project))
        for line in self.dnsmasq.leases():
            text = str(line.address)
            if text not in fixed:
                project = known.get(line.hwaddr, "default")
                found.append(Lease(line.hostname, line.hwaddr, text, "dynamic", project))
        return found

    def set_host(self, entry: HostEntry) -> HostEntry:
        if self.config.get("dns.mode", "managed") != "managed":
            entry = HostEntry(entry.owner, entry.device, entry.hwaddr, "", entry.ipv4, entry.ipv6)
        if entry.ipv4 or entry.ipv6:  # else there is nothing to compare with all the others
            entry = self._with_addresses(entry)
        self.dnsmasq.write_host(entry)
        return entry

    def _with_addresses(self, entry: HostEntry) -> HostEntry:
        """The entry with addresses that are its own alone.

        :raises Conflict: another nic has one, or none is left.
        """
        others = [
            other
            for other in self.dnsmasq.hosts.entries()
            if (other.owner, other.device) != (entry.owner, entry.device)
        ]
        self._refuse_duplicates(entry, others)
        own = [a.ip for a in (self._address("ipv4"), self._address("ipv6")) if a is not None]
        return leases.allocate(
            entry, others, self.dnsmasq.leases(), dnsmasq.dhcp_ranges(self.config), own
        )

    def _refuse_duplicates(self, entry: HostEntry, others: Sequence[HostEntry]) -> None:
        for other in others:
            for text in filter(None, (entry.ipv4, entry.ipv6)):
                if text != leases.AUTO and text in (other.ipv4, other.ipv6):
                    raise Conflict(
                        f"IP address {values.quoted(text)} already defined on another NIC"
                    )

    def forget_host(self, owner: str, device: str) -> None:
        entry = self.dnsmasq.forget_host(owner, device)
        if entry is None:
            return
        address = self._address("ipv4")
        if address is None or not self.is_up():
            return
        for line in self.dnsmasq.leases():
            if line.address.version == 4 and line.hwaddr == entry.hwaddr:
                # A lease that cannot be given back ends by itself.
                with contextlib.suppress(OSError):
                    leases.release(self.name, str(address.ip), line)


def _free_subnet(
    family: str, used: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> str:
    """The first address of a random private subnet that overlaps none of ``used``."""
    for attempt in range(_TRIES):
        subnet = _random_v4(attempt) if family == "ipv4" else _random_v6()
        if not any(subnet.version == other.version and subnet.overlaps(other) for other in used):
            return f"{subnet[1]}/{subnet.prefixlen}"
    raise InternalError(
        f"Failed to automatically find an unused {'IPv4' if family == 'ipv4' else 'IPv6'} subnet,"
        " manual configuration required"
    )


def _random_v4(attempt: int) -> ipaddress.IPv4Network:
    # Ten to one for 10/8; the other private ranges for hosts that route all of it away.
    a, b = secrets.randbelow(256), secrets.randbelow(256)
    starts = (f"10.{a}.{b}.0", f"172.{16 + a % 16}.{b}.0", f"192.168.{b}.0")
    return ipaddress.IPv4Network(f"{starts[0 if attempt < _TRIES // 2 else 1 + attempt % 2]}/24")


def _random_v6() -> ipaddress.IPv6Network:
    start = b"\xfd\x42" + secrets.token_bytes(6) + bytes(8)
    return ipaddress.IPv6Network((start, 64))
