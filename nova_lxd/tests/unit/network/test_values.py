# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_lxd.lxd.network import values as v


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (v.boolean, "Yes"),
        (v.interface_name, "eth0.5"),
        (v.mac, "00:16:3E:aa:bb:0c"),
        (v.mtu, "1280"),
        (v.vlan, "0"),
        (v.port, "65535"),
        (v.interface_v4, "10.0.0.1/24"),
        (v.interface_v6, "fd42::1/64"),
        (v.network_v4, "10.0.0.0/24"),
        (v.network_v6, "fd42::/64"),
        (v.range_v4, "10.0.0.2-10.0.0.9"),
        (v.range_v6, "fd42::2 - fd42::9"),
        (v.list_of(v.address_v4), "10.0.0.1, 10.0.0.2"),
        (v.optional(v.mac), ""),
        (v.integer(0, 5), "5"),
        (v.rate, "10Mbit"),
        (v.size, "10GiB"),
    ],
)
def test_good(check: v.Check, good: str) -> None:
    check(good)


@pytest.mark.parametrize(
    ("check", "bad", "said"),
    [
        (v.boolean, "maybe", 'Invalid value for a boolean "maybe"'),
        (v.interface_name, "e", "Network interface is too short (minimum 2 characters)"),
        (v.interface_name, "a" * 16, "Network interface is too long (maximum 15 characters)"),
        (v.interface_name, "a..b", "Network interface name must not contain '..'"),
        (v.interface_name, "a b", "Network interface contains invalid characters"),
        (v.interface_name, "ab\n", "Network interface contains invalid characters"),
        (v.mac, "00-16-3e-aa-bb-cc", "Invalid MAC address"),
        (v.mtu, "x", 'Invalid MTU "x"'),
        (v.mtu, "99999", 'Out of MTU range (1280-16384) "99999"'),
        (v.vlan, "4095", 'Out of VLAN ID range (0-4094) "4095"'),
        (v.port, "65536", 'Invalid port number "65536"'),
        (v.port, "٣", "Invalid port number"),
        (v.interface_v4, "10.0.0.0/24", 'Not a usable IPv4 address "10.0.0.0/24"'),
        (v.interface_v4, "10.0.0.1", "invalid CIDR address: 10.0.0.1"),
        (v.interface_v4, "fd42::1/64", 'Not an IPv4 address "fd42::1/64"'),
        (v.network_v4, "10.0.0.1/24", 'Not an IPv4 network address "10.0.0.1/24"'),
        (v.range_v4, "10.0.0.2", "IP range must contain start and end IP addresses"),
        (v.range_v4, "10.0.0.9-10.0.0.2", "Start IP address must be before or equal"),
        (v.list_of(v.address_v4), "10.0.0.1,x", 'Item "x": Not an IPv4 address "x"'),
        (v.address_v6, "fe80::1%eth0", "Not an IPv6 address"),
        (v.one_of("a", "b"), "c", 'Invalid value "c" (not one of [a b])'),
        (v.integer(0, 5), "6", "Must be between 0 and 5"),
        (v.rate, "10MB", "Invalid value"),
        (v.size, "10 apples", "Invalid value"),
        (v.size, "99999999999999999999", "too large"),
    ],
)
def test_bad(check: v.Check, bad: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(bad)
    assert said in str(caught.value)


def test_units() -> None:
    assert v.parse_bytes("10kB") == 10_000
    assert v.parse_bytes("1MiB") == 1 << 20
    assert v.parse_bits("100Mbit") == 100_000_000
    assert v.parse_bits("7") == 7


@given(st.text())
def test_checks_answer_with_valueerror_only(text: str) -> None:
    checks = (
        v.boolean, v.interface_name, v.mac, v.mtu, v.vlan, v.port, v.address, v.interface_v4,
        v.interface_v6, v.network_v4, v.network_v6, v.range_v4, v.range_v6, v.size, v.rate,
    )  # fmt: skip
    for check in checks:
        try:
            check(text)
        except ValueError:
            continue
