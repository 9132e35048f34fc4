# SPDX-License-Identifier: Apache-2.0
"""What all nics have in common: their keys, names, MAC addresses, and veth pairs."""

from __future__ import annotations

import errno
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from nova_lxd.lxd.devices import nic_rules
from nova_lxd.lxd.devices.interface import Device, Nic, RunConfig, Volatile
from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.host.netlink import Link, Netlink
from nova_lxd.lxd.network import firewall, links, values
from nova_lxd.lxd.network import values as v
from nova_lxd.lxd.schema.configkeys import Key, KeyTable

_DECLARED = (
    v.key("nictype", "string", "Kind of nic."),
    v.key("network", "string", "Managed network that the nic is on, instead of nictype."),
    v.key("parent", "string", "Interface or bridge of the host.", v.interface_name),
    v.key("name", "string", "Name of the interface in the instance.", v.interface_name),
    v.key("hwaddr", "string", "MAC address in the instance.", v.mac),
    v.key("mtu", "integer", "MTU, by default the parent's.", v.mtu),
    v.key("host_name", "string", "Name of the interface on the host.", v.interface_name),
    v.key("limits.ingress", "string", "Rate of incoming traffic in bit/s.", v.rate),
    v.key("limits.egress", "string", "Rate of outgoing traffic in bit/s.", v.rate),
    v.key("limits.max", "string", "Both limits.ingress and limits.egress.", v.rate),
    v.key("ipv4.address", "string", "Address given by DHCP, none for no IPv4 with filtering."),
    v.key("ipv6.address", "string", "Address given by DHCP, none for no IPv6 with filtering."),
    v.key("ipv4.routes", "string", "Subnets to route to the nic.", v.list_of(v.network_v4)),
    v.key("ipv6.routes", "string", "Subnets to route to the nic.", v.list_of(v.network_v6)),
    v.key("security.mac_filtering", "bool", "Drop packets of other MACs.", v.boolean),
    v.key("security.ipv4_filtering", "bool", "Drop packets of other IPv4 addresses.", v.boolean),
    v.key("security.ipv6_filtering", "bool", "Drop packets of other IPv6 addresses.", v.boolean),
    v.key("security.port_isolation", "bool", "No traffic to other isolated nics.", v.boolean),
    v.key("boot.priority", "integer", "Order of booting from it.", v.uint32),
    v.key("vlan", "integer", "VLAN of the parent to be on.", v.vlan),
    v.key(
        "mode", "string", "Mode of a macvlan.", v.one_of("bridge", "vepa", "passthru", "private")
    ),
    v.key("ipv4.gateway", "string", "Default gateway: auto or none.", v.one_of("auto", "none")),
    v.key("ipv6.gateway", "string", "Default gateway: auto or none.", v.one_of("auto", "none")),
    v.key("ipv4.host_address", "string", "Address of the host's end.", v.address_v4),
    v.key("ipv6.host_address", "string", "Address of the host's end.", v.address_v6),
    v.key("ipv4.host_table", "integer", "Further routing table for the routes.", v.uint32),
    v.key("ipv6.host_table", "integer", "Further routing table for the routes.", v.uint32),
    v.key("user.*", "string", "Free keys of the user."),
)
_BY_NAME = {key.name: key for key in _DECLARED}
COMMON = ("nictype", "name", "hwaddr", "mtu", "boot.priority", "user.*")
LIMITS = ("limits.ingress", "limits.egress", "limits.max")
ROUTES = ("ipv4.routes", "ipv6.routes")


def key_table(*names: str, changed: Iterable[Key] = ()) -> KeyTable:
    """The keys of one kind of nic: those that all have, the named ones, and own declarations."""
    return KeyTable("nic device", [*(_BY_NAME[name] for name in (*COMMON, *names)), *changed])


def address_keys(check_v4: v.Check, check_v6: v.Check) -> tuple[Key, Key]:
    """``ipv4.address`` and ``ipv6.address`` with the checks of a kind of nic."""
    return (
        v.key("ipv4.address", "string", _BY_NAME["ipv4.address"].doc, check_v4),
        v.key("ipv6.address", "string", _BY_NAME["ipv6.address"].doc, check_v6),
    )


def random_hwaddr() -> str:
    """A MAC address out of the block that LXD uses."""
    return "00:16:3e:" + secrets.token_bytes(3).hex(":")


class NicDevice(Device):
    """Common to all nics."""

    def hwaddr(self) -> str:
        """The MAC address: set, or recorded when the nic was added, or empty."""
        return (self.get("hwaddr") or self.volatile("hwaddr")).lower()

    def inner_name(self) -> str:
        """The name inside: set, recorded, or the first free ``ethN``."""
        return self.get("name") or self.volatile("name") or self._free_names()[self.name]

    def _free_names(self) -> dict[str, str]:
        """A name for every nic that has none, so that two of them never choose the same."""
        nics = {
            name: config
            for name, config in sorted(self.instance.devices.items())
            if config.get("type") == "nic"
        }
        nics.setdefault(self.name, self.config)
        taken: set[str] = set()
        missing: list[str] = []
        for name, config in nics.items():
            known = config.get("name") or self.instance.volatile(name, "name")
            if known:
                taken.add(known)
            else:
                missing.append(name)
        free = (f"eth{n}" for n in range(len(nics) + len(taken) + 1) if f"eth{n}" not in taken)
        return dict(zip(missing, free, strict=False))

    def add(self) -> Volatile:
        changes: Volatile = {}
        if not self.get("hwaddr") and not self.volatile("hwaddr"):
            changes["hwaddr"] = random_hwaddr()
        if not self.get("name") and not self.volatile("name"):
            changes["name"] = self.inner_name()
        return changes

    def with_volatile(self, changes: Volatile) -> None:
        """Take values that were just chosen into this view of the device."""
        config = dict(self.instance.config)
        for key, value in changes.items():
            config[f"volatile.{self.name}.{key}"] = value or ""
        self.instance = replace(self.instance, config=config)

    def parent_link(self, nl: Netlink, parent: str) -> Link:
        """The interface of the host that the nic is on.  BadRequest: there is none."""
        link = nl.find(parent)
        if link is None:
            raise BadRequest(f"Parent device {values.quoted(parent)} doesn't exist")
        return link

    def tag(self) -> str:
        """The alias on interfaces of the host that says whose they are; it survives a crash."""
        nic = (self.host.paths.tag, self.instance.project, self.instance.name, self.name)
        return "nova-lxd " + " ".join(nic)

    def names(self) -> tuple[str, str]:
        """The names of the (host, inner) end of a veth pair when none is set."""
        return self.host.paths.veth_names(self.instance.project, self.instance.name, self.name)

    def table(self) -> str:
        """The name of the nic's nftables table."""
        inst = self.instance
        return firewall.table_name(self.host.paths.tag, "nic", inst.project, inst.name, self.name)


class VethNic(NicDevice):
    """A nic that is a veth pair: the host's end stays, the inner end is handed over."""

    updatable = frozenset(LIMITS)

    def host_name(self) -> str:
        """The name of the host's end."""
        return self.get("host_name") or self.names()[0]

    def start_pair(self, nl: Netlink, undo: ExitStack, *, mtu: int | None) -> Link:
        """Make the pair, the host's end up and with its limits, and return that end."""
        self.remove_pair(nl)
        host, inner = self.host_name(), self.names()[1]
        try:
            nl.create_veth(host, inner, mtu=mtu, peer_address=self.hwaddr())
        except OSError as exc:
            if exc.errno != errno.EEXIST:
                raise
            raise Conflict(
                f"Starting nic {self.name} failed: the host has an interface"
                f" {values.quoted(host)} already; choose another host_name"
            ) from exc
        undo.callback(links.delete, host)
        link = nl.link(host)
        nl.set_link(link.index, alias=self.tag())
        ingress = self.rates()[0]
        if ingress:
            links.shape(host, ingress)
        return link

    def remove_pair(self, nl: Netlink) -> None:
        """Remove the pair, whatever name an earlier life gave it; never one of somebody else."""
        for name in {self.volatile("host_name"), self.host_name(), *self.names()}:
            link = nl.find(name) if name else None
            if link is not None and (link.alias == self.tag() or link.name in self.names()):
                with links.gone_is_fine():
                    nl.delete_link(link.index)

    def rates(self, config: Mapping[str, str] | None = None) -> tuple[int, int]:
        """(ingress, egress) in bits per second, seen from the instance; 0 is no limit."""
        config = self.config if config is None else config
        both = config.get("limits.max", "")
        limits = (both or config.get(f"limits.{way}", "") for way in ("ingress", "egress"))
        ingress, egress = (v.parse_bits(text) if text else 0 for text in limits)
        return ingress, egress

    def filter(self) -> nic_rules.Filter:
        """What of the guest's packets is checked."""
        return nic_rules.Filter(egress=self.rates()[1])

    def apply_filter(self, undo: ExitStack | None = None) -> None:
        """Put the filter in force when there is one."""
        wanted = self.filter()
        if not wanted.empty:
            nic_rules.apply(self.table(), self.host_name(), wanted)
            if undo is not None:
                undo.callback(firewall.remove, "netdev", self.table())

    def run_config(self) -> RunConfig:
        """The nic as the instance gets it."""
        nic = Nic(link=self.names()[1], name=self.inner_name(), hwaddr=self.hwaddr())
        return RunConfig(nics=[nic], volatile={"host_name": self.host_name()})

    def update(self, old: Mapping[str, str]) -> RunConfig:
        if self.instance.init_pid is None or not links.exists(self.host_name()):
            return RunConfig()
        if self.rates(old)[0] != self.rates()[0]:
            links.shape(self.host_name(), self.rates()[0])
        nic_rules.apply(self.table(), self.host_name(), self.filter())
        return RunConfig()

    def stop(self) -> RunConfig:
        # The inner end goes with the pair, wherever it is.
        with Netlink() as nl:
            self.remove_pair(nl)
        return RunConfig()

    def post_stop(self) -> Volatile:
        with Netlink() as nl:
            self.remove_pair(nl)
        if not self.filter().empty:
            firewall.remove("netdev", self.table())
        return {"host_name": None} if self.volatile("host_name") else {}


def subnet(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A checked subnet of the configuration."""
    return ipaddress.ip_network(text)
