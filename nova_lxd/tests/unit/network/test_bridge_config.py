# SPDX-License-Identifier: Apache-2.0
"""Bridges as configuration: what is accepted, and what dnsmasq and nftables are told."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.network import bridge_rules, dnsmasq, firewall
from nova_lxd.lxd.network.bridge import Bridge, _free_subnet
from nova_lxd.lxd.paths import Paths

V4 = {"ipv4.address": "10.0.0.1/24", "ipv6.address": "none"}
V6 = {"ipv4.address": "none", "ipv6.address": "fd42::1/64"}


def bridge(config: dict[str, str], name: str = "lxdbr0") -> Bridge:
    return Bridge(Paths(Path("/x")), name, config)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"ipv4.address": "auto"},
        {"ipv4.dhcp.ranges": "10.0.0.5-10.0.0.9,10.0.0.20-10.0.0.30", "ipv4.dhcp.expiry": "7d"},
        {"bridge.external_interfaces": "eth1,vlan5/eth0/5"},
        {"dns.domain": "example.test", "dns.mode": "dynamic"},
        {"raw.dnsmasq": "log-queries\nauth-ttl=5", "user.note": "x"},
        {"ipv4.nat": "true", "ipv4.nat.order": "after", "ipv4.nat.address": "192.0.2.1"},
    ],
    ids=str,
)
def test_good(extra: dict[str, str]) -> None:
    bridge(V4 | extra).validate()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"nope": "1"}, 'Invalid option for network "lxdbr0" option "nope"'),
        ({"ipv4.nat": "x"}, 'Invalid value for network "lxdbr0" option "ipv4.nat": Invalid value'),
        ({"ipv4.address": "10.0.0.0/24"}, "Not a usable IPv4 address"),
        ({"ipv4.dhcp.ranges": "10.9.0.5-10.9.0.9"}, "not in subnet 10.0.0.0/24"),
        ({"ipv4.dhcp.expiry": "soon"}, "lease time"),
        ({"bridge.mtu": "9"}, "Out of MTU range"),
        ({"bridge.driver": "openvswitch"}, "not one of [native]"),
        ({"dns.domain": "-bad-"}, "Invalid DNS domain"),
        ({"bridge.external_interfaces": "a/b"}, "invalid characters"),
    ],
    ids=str,
)
def test_bad(extra: dict[str, str], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        bridge(V4 | extra).validate()
    assert said in caught.value.message


@pytest.mark.parametrize("name", ["x", "a" * 16, "../etc", "a b", ""])
def test_bad_names(name: str) -> None:
    with pytest.raises(BadRequest, match="Invalid network name"):
        bridge(V4, name).validate()


def test_defaults_of_a_new_network() -> None:
    filled = Bridge.fill_config({"ipv6.address": "none", "ipv4.nat": ""})
    assert filled == {"ipv4.address": "auto", "ipv4.nat": "true", "ipv6.address": "none"}
    assert "ipv4.nat" not in Bridge.fill_config(V4)


def test_hwaddr_is_stable_and_own() -> None:
    assert bridge(V4).hwaddr() == bridge(V4).hwaddr()
    assert bridge(V4).hwaddr() != bridge(V4, "other0").hwaddr()
    assert bridge(V4 | {"bridge.hwaddr": "00:16:3E:00:00:0A"}).hwaddr() == "00:16:3e:00:00:0a"


def test_free_subnet_leaves_a_full_range_alone() -> None:
    used = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("172.16.0.0/12")]
    assert _free_subnet("ipv4", used).startswith("192.168.")


def test_dnsmasq_serves_the_whole_subnet_by_default() -> None:
    args = dnsmasq.arguments("lxdbr0", V4)
    assert "--dhcp-range=10.0.0.2,10.0.0.254,255.255.255.0,1h" in args
    assert "--listen-address=10.0.0.1" in args
    assert "--interface-name=_gateway.lxd,lxdbr0" in args


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (V4 | {"ipv4.dhcp.ranges": "10.0.0.7-10.0.0.8", "ipv4.dhcp.expiry": "5m"},
         "--dhcp-range=10.0.0.7,10.0.0.8,255.255.255.0,5m"),
        (V4 | {"ipv4.dhcp.gateway": "10.0.0.3"}, "--dhcp-option-force=3,10.0.0.3"),
        (V4 | {"bridge.mtu": "1400"}, "--dhcp-option-force=26,1400"),
        (V4 | {"dns.search": "a.test, b.test"}, "--dhcp-option-force=119,a.test,b.test"),
        (V4 | {"dns.domain": "x.test"}, "--server=/x.test/"),
        (V6, "--dhcp-range=::,constructor:lxdbr0,ra-stateless,ra-names"),
        (V6 | {"ipv6.dhcp": "false"}, "--dhcp-range=::,constructor:lxdbr0,ra-only"),
        (V6 | {"ipv6.dhcp.stateful": "true"},
         "--dhcp-range=fd42::2,fd42::ffff:ffff:ffff:ffff,64,1h"),
    ],
)  # fmt: skip
def test_dnsmasq_arguments(config: dict[str, str], wanted: str) -> None:
    assert wanted in dnsmasq.arguments("lxdbr0", config)


def test_no_dhcp_no_range() -> None:
    args = dnsmasq.arguments("lxdbr0", V4 | {"ipv4.dhcp": "false"})
    assert not any(arg.startswith("--dhcp-range") for arg in args)


def rules_of(config: dict[str, str]) -> dict[str, str]:
    return {chain.name: json.dumps(chain.rules) for chain in bridge_rules.chains("lxdbr0", config)}


def test_rules_follow_the_keys() -> None:
    assert set(rules_of(V4)) == {"input", "forward", "output"}
    assert "masquerade" in rules_of(V4 | {"ipv4.nat": "true"})["nat_ipv4"]
    snat = rules_of(V4 | {"ipv4.nat": "true", "ipv4.nat.address": "192.0.2.1"})["nat_ipv4"]
    assert "192.0.2.1" in snat and "masquerade" not in snat
    assert rules_of(V4 | {"ipv4.firewall": "false"}) == {}
    assert "reject" in rules_of(V4 | {"ipv4.routing": "false"})["forward"]
    assert "67" not in rules_of(V4 | {"ipv4.dhcp": "false"})["input"]
    assert rules_of({"ipv4.address": "none", "ipv6.address": "none"}) == {}


def test_table_names_do_not_collide() -> None:
    names = {
        firewall.table_name("t", "nic", *parts)
        for parts in (("a", "b-c", "d"), ("a-b", "c", "d"), ("a", "b_c", "d"), ("a", "b", "c.d"))
    }
    assert len(names) == 4
