# SPDX-License-Identifier: Apache-2.0
"""The config keys of managed bridges (LXD's network type "bridge")."""

from __future__ import annotations

import re

from nova_lxd.lxd.network import values as v
from nova_lxd.lxd.schema.configkeys import KeyTable


def _none_auto_or(check: v.Check) -> v.Check:
    def either(value: str) -> None:
        if value not in ("none", "auto"):
            check(value)

    return either


def _none_or(check: v.Check) -> v.Check:
    def either(value: str) -> None:
        if value != "none":
            check(value)

    return either


def _external(value: str) -> None:
    # "name/parent/vlan" asks for a VLAN interface to be made.
    parts = value.split("/")
    if len(parts) == 3:
        v.interface_name(parts[0])
        v.interface_name(parts[1])
        v.vlan(parts[2])
    else:
        v.interface_name(value)


def _expiry(value: str) -> None:
    if value != "infinite" and not re.fullmatch(r"[0-9]+[smhdw]?", value):
        raise ValueError(f"Invalid lease time {v.quoted(value)}, give for example 45m, 1h or 7d")


def _domain(value: str) -> None:
    if len(value) > 253 or not re.fullmatch(
        r"[A-Za-z0-9]([A-Za-z0-9_-]{0,62}\.?)*(?<![-.])", value
    ):
        raise ValueError(f"Invalid DNS domain {v.quoted(value)}")


_ORDER = v.one_of("before", "after")

KEYS = KeyTable(
    "network",
    [
        v.key(
            "bridge.driver",
            "string",
            "Bridge driver; only native is available.",
            v.one_of("native"),
        ),
        v.key(
            "bridge.mode",
            "string",
            "Bridge mode; only standard is available.",
            v.one_of("standard"),
        ),
        v.key(
            "bridge.external_interfaces",
            "string",
            "Unconfigured host interfaces to put into the bridge.",
            v.list_of(_external),
        ),
        v.key("bridge.hwaddr", "string", "MAC address of the bridge.", v.mac),
        v.key("bridge.mtu", "integer", "MTU of the bridge and of the nics on it.", v.mtu, "1500"),
        v.key(
            "dns.domain", "string", "Domain told to DHCP clients and used for DNS.", _domain, "lxd"
        ),
        v.key(
            "dns.mode",
            "string",
            "DNS records: none, managed (from the nics' configuration) or dynamic (by clients).",
            v.one_of("none", "managed", "dynamic"),
            "managed",
        ),
        v.key("dns.search", "string", "Search domains told to DHCP clients.", v.list_of(_domain)),
        v.key(
            "ipv4.address",
            "string",
            "IPv4 address of the bridge (CIDR), none or auto.",
            _none_auto_or(v.interface_v4),
        ),
        v.key("ipv4.dhcp", "bool", "Serve DHCPv4.", v.boolean, "true"),
        v.key("ipv4.dhcp.expiry", "string", "Lease time of DHCPv4.", _expiry, "1h"),
        v.key("ipv4.dhcp.gateway", "string", "Gateway told to clients.", v.address_v4),
        v.key("ipv4.dhcp.ranges", "string", "Address ranges FIRST-LAST.", v.list_of(v.range_v4)),
        v.key("ipv4.firewall", "bool", "Make firewall rules for the network.", v.boolean, "true"),
        v.key("ipv4.nat", "bool", "Translate outgoing IPv4 traffic.", v.boolean, "false"),
        v.key("ipv4.nat.address", "string", "Source address of translated traffic.", v.address_v4),
        v.key(
            "ipv4.nat.order", "string", "Whether the rules come before or after others.", _ORDER
        ),
        v.key("ipv4.routes", "string", "More subnets behind the bridge.", v.list_of(v.network_v4)),
        v.key(
            "ipv4.routing", "bool", "Forward traffic in and out of the bridge.", v.boolean, "true"
        ),
        v.key(
            "ipv6.address",
            "string",
            "IPv6 address of the bridge (CIDR), none or auto.",
            _none_auto_or(v.interface_v6),
        ),
        v.key("ipv6.dhcp", "bool", "Serve addresses and options by DHCPv6.", v.boolean, "true"),
        v.key("ipv6.dhcp.expiry", "string", "Lease time of DHCPv6.", _expiry, "1h"),
        v.key("ipv6.dhcp.ranges", "string", "Address ranges FIRST-LAST.", v.list_of(v.range_v6)),
        v.key("ipv6.dhcp.stateful", "bool", "Give out addresses by DHCPv6.", v.boolean, "false"),
        v.key("ipv6.firewall", "bool", "Make firewall rules for the network.", v.boolean, "true"),
        v.key("ipv6.nat", "bool", "Translate outgoing IPv6 traffic.", v.boolean, "false"),
        v.key("ipv6.nat.address", "string", "Source address of translated traffic.", v.address_v6),
        v.key(
            "ipv6.nat.order", "string", "Whether the rules come before or after others.", _ORDER
        ),
        v.key("ipv6.routes", "string", "More subnets behind the bridge.", v.list_of(v.network_v6)),
        v.key(
            "ipv6.routing", "bool", "Forward traffic in and out of the bridge.", v.boolean, "true"
        ),
        v.key("raw.dnsmasq", "string", "More lines for dnsmasq's configuration."),
        v.key("volatile.bridge.hwaddr", "string", "MAC address chosen for the bridge.", v.mac),
        v.key("user.*", "string", "Free keys of the user."),
    ],
)
