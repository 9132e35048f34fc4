# SPDX-License-Identifier: Apache-2.0
"""The nftables chains of a managed bridge, made from its configuration alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from nova_lxd.lxd.network import values
from nova_lxd.lxd.network.firewall import (
    ACCEPT,
    MASQUERADE,
    Chain,
    Expression,
    any_of,
    field_of,
    match,
    meta,
    prefix,
    snat,
)

_SRCNAT = 100
_ORDER = {"before": -10, "after": 10}
_REJECT: Expression = {"reject": None}


@dataclass(frozen=True)
class _Family:
    """What differs between the families in rules."""

    config: str
    protocol: str
    nfproto: str
    icmp: str
    icmp_types: tuple[str, ...]
    dhcp_port: int


_FAMILIES = (
    _Family(
        "ipv4",
        "ip",
        "ipv4",
        "icmp",
        ("destination-unreachable", "time-exceeded", "parameter-problem"),
        67,
    ),
    _Family(
        "ipv6",
        "ip6",
        "ipv6",
        "icmpv6",
        (
            "destination-unreachable",
            "packet-too-big",
            "time-exceeded",
            "parameter-problem",
            "nd-router-solicit",
            "nd-neighbor-solicit",
            "nd-neighbor-advert",
            "mld2-listener-report",
        ),
        547,
    ),
)


def chains(bridge: str, config: Mapping[str, str]) -> list[Chain]:
    """The chains for a network with its addresses chosen; none when nothing is asked for."""
    made: list[Chain] = []
    inputs: list[list[Expression]] = []
    forwards: list[list[Expression]] = []
    outputs: list[list[Expression]] = []
    for family in _FAMILIES:
        address = config.get(f"{family.config}.address", "none")
        if address in ("", "none", "auto"):
            continue
        if not values.is_false(config.get(f"{family.config}.firewall")):
            inputs += _input(bridge, config, family)
            outputs += _output(bridge, config, family)
            forwards += _forward(bridge, config, family)
        if values.is_true(config.get(f"{family.config}.nat")):
            made.append(_nat(config, family, address))
    for name, hook, rules in (
        ("input", "input", inputs),
        ("forward", "forward", forwards),
        ("output", "output", outputs),
    ):
        if rules:
            made.append(Chain(name, "filter", hook, 0, rules))
    return made


def _nfproto(family: _Family) -> Expression:
    return match(meta("nfproto"), family.nfproto)


def _serves_dhcp(config: Mapping[str, str], family: _Family) -> bool:
    return not values.is_false(config.get(f"{family.config}.dhcp"))


def _input(bridge: str, config: Mapping[str, str], family: _Family) -> list[list[Expression]]:
    """What guests may ask of the host: names, leases, and the messages that IP needs."""
    inward = match(meta("iifname"), bridge)
    rules = [
        [inward, _nfproto(family), match(field_of(protocol, "dport"), 53), ACCEPT]
        for protocol in ("tcp", "udp")
    ]
    rules.append([inward, match(field_of(family.icmp, "type"), any_of(family.icmp_types)), ACCEPT])
    if _serves_dhcp(config, family):
        port = match(field_of("udp", "dport"), family.dhcp_port)
        rules.append([inward, _nfproto(family), port, ACCEPT])
    return rules


def _output(bridge: str, config: Mapping[str, str], family: _Family) -> list[list[Expression]]:
    outward = match(meta("oifname"), bridge)
    rules = [
        [outward, _nfproto(family), match(field_of(protocol, "sport"), 53), ACCEPT]
        for protocol in ("tcp", "udp")
    ]
    if _serves_dhcp(config, family):
        port = match(field_of("udp", "sport"), family.dhcp_port)
        rules.append([outward, _nfproto(family), port, ACCEPT])
    return rules


def _forward(bridge: str, config: Mapping[str, str], family: _Family) -> list[list[Expression]]:
    verdict = _REJECT if values.is_false(config.get(f"{family.config}.routing")) else ACCEPT
    return [
        [_nfproto(family), match(meta(side), bridge), verdict] for side in ("iifname", "oifname")
    ]


def _nat(config: Mapping[str, str], family: _Family, address: str) -> Chain:
    subnet = str(ipaddress.ip_interface(address).network)
    source = config.get(f"{family.config}.nat.address")
    action = snat(family.protocol, source) if source else MASQUERADE
    rule = [
        match(field_of(family.protocol, "saddr"), prefix(subnet)),
        match(field_of(family.protocol, "daddr"), prefix(subnet), "!="),
        action,
    ]
    order = config.get(f"{family.config}.nat.order") or "before"
    return Chain(f"nat_{family.config}", "nat", "postrouting", _SRCNAT + _ORDER[order], [rule])
