# SPDX-License-Identifier: Apache-2.0
"""nftables rules of one nic: what its guest may send, checked on the host's end of the veth pair.

All of it sits in one table of family netdev with a chain at the interface's ingress: a forged
packet is dropped before the bridge learns an address from it, and the rate of what the guest
sends is policed in the same place (tc's ``police`` is not in every kernel).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from nova_lxd.lxd.network import firewall
from nova_lxd.lxd.network.firewall import (
    ACCEPT,
    DROP,
    Chain,
    Expression,
    Table,
    any_of,
    field_of,
    limit_over,
    match,
    meta,
    prefix,
)

# What the bucket holds besides the one second's worth that nftables always gives it: two of the
# biggest packets that segmentation offload hands over, or a low limit would let none through.
_BURST = 128 * 1024


@dataclass(frozen=True)
class Filter:
    """What is checked of a guest's packets.

    :param hwaddr: the only source MAC address allowed; empty: any.
    :param ipv4: the only IPv4 sources allowed (addresses or subnets); None: any; (): none at all.
    :param ipv6: the same for IPv6, besides link-local addresses of the MAC address.
    :param egress: bits per second that the guest may send; 0: no limit.
    :param strict_neighbours: also check what ARP and neighbour discovery claim, drop router
        advertisements and let the guest ask for an address by DHCP.
    """

    hwaddr: str = ""
    ipv4: Sequence[str] | None = None
    ipv6: Sequence[str] | None = None
    egress: int = 0
    strict_neighbours: bool = True

    @property
    def empty(self) -> bool:
        return not self.hwaddr and self.ipv4 is None and self.ipv6 is None and not self.egress


def table(name: str, device: str, wanted: Filter) -> Table:
    """The table with the rules for the host's interface ``device``."""
    rules: list[list[Expression]] = []
    # First, for rules further down accept some packets.
    if wanted.egress:
        rules.append(limit_over(max(wanted.egress // 8, 1), _BURST))
    if wanted.hwaddr:
        rules += _mac_rules(wanted.hwaddr)
    if wanted.ipv4 is not None:
        rules += _ipv4_rules(wanted.ipv4, wanted.strict_neighbours)
    if wanted.ipv6 is not None:
        rules += _ipv6_rules(wanted.ipv6, wanted.hwaddr, wanted.strict_neighbours)
    return Table("netdev", name, [Chain("ingress", "filter", "ingress", 0, rules, device=device)])


def apply(name: str, device: str, wanted: Filter) -> None:
    """Put the rules in force; without any, make sure that there is no table."""
    if wanted.empty:
        firewall.remove("netdev", name)
    else:
        firewall.apply(table(name, device, wanted))


def _ethertype(value: str) -> Expression:
    return match(meta("protocol"), value)


def _mac_rules(hwaddr: str) -> list[list[Expression]]:
    return [
        [match(field_of("ether", "saddr"), hwaddr, "!="), DROP],
        [_ethertype("arp"), match(field_of("arp", "saddr ether"), hwaddr, "!="), DROP],
    ]


def _sources(texts: Sequence[str]) -> Expression:
    return any_of([prefix(text) if "/" in text else text for text in texts])


def _ipv4_rules(allowed: Sequence[str], strict: bool) -> list[list[Expression]]:
    if not allowed:
        return [[_ethertype("arp"), DROP], [_ethertype("ip"), DROP]]
    rules: list[list[Expression]] = []
    if strict:
        rules += [
            [_ethertype("arp"), match(field_of("arp", "saddr ip"), _sources(allowed), "!="), DROP],
            # A client that has no address yet.
            [
                match(field_of("ip", "saddr"), "0.0.0.0"),
                match(field_of("ip", "daddr"), "255.255.255.255"),
                match(field_of("udp", "sport"), 68),
                match(field_of("udp", "dport"), 67),
                ACCEPT,
            ],
        ]
    rules.append([match(field_of("ip", "saddr"), _sources(allowed), "!="), DROP])
    return rules


def _ipv6_rules(allowed: Sequence[str], hwaddr: str, strict: bool) -> list[list[Expression]]:
    if not allowed:
        return [[_ethertype("ip6"), DROP]]
    rules: list[list[Expression]] = []
    if strict:
        own_link_local = str(eui64(ipaddress.IPv6Network("fe80::/64"), hwaddr)) if hwaddr else ""
        may_claim = [*allowed, *([own_link_local] if own_link_local else ["fe80::/10"])]
        rules += [
            [match(field_of("icmpv6", "type"), "nd-router-advert"), DROP],
            # The target of an advertisement: 16 bytes, 8 after the start of the ICMPv6 header.
            [
                match(field_of("icmpv6", "type"), "nd-neighbor-advert"),
                match(
                    {"payload": {"base": "th", "offset": 64, "len": 128}},
                    any_of([_raw(text) for text in may_claim]),
                    "!=",
                ),
                DROP,
            ],
            # Duplicate address detection and router solicitation come from no address.
            [
                match(field_of("ip6", "saddr"), "::"),
                match(
                    field_of("icmpv6", "type"),
                    any_of(["nd-neighbor-solicit", "nd-router-solicit", "mld2-listener-report"]),
                ),
                ACCEPT,
            ],
        ]
    rules.append([match(field_of("ip6", "saddr"), _sources([*allowed, "fe80::/10"]), "!="), DROP])
    return rules


def _raw(text: str) -> Expression | str:
    """An IPv6 address or subnet as a number, which a raw payload is compared with."""
    network = ipaddress.IPv6Network(text)
    start = f"0x{int(network.network_address):032x}"
    if network.prefixlen == 128:
        return start
    return {"range": [start, f"0x{int(network.broadcast_address):032x}"]}


def eui64(subnet: ipaddress.IPv6Network, hwaddr: str) -> ipaddress.IPv6Address:
    """The address that a guest with this MAC address takes in a /64 (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(hwaddr.replace(":", ""))
    octets[0] ^= 2
    host = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return ipaddress.IPv6Address(int(subnet.network_address) | int.from_bytes(host))
