# SPDX-License-Identifier: Apache-2.0
"""Where the guests' way out leads, and which name servers they are told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cloud import outbound

ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0
wlan0 00000000 0101A8C0 0003 0 0 600 00000000 0 0 0
tun0 00000000 00000000 0001 0 0 0 00000080 0 0 0
"""


def test_uplinks_are_those_of_default_routes(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(ROUTES)
    assert outbound.uplinks(table) == ["eth0", "wlan0"]


def test_loopback_resolvers_are_of_no_use_to_guests(tmp_path: Path) -> None:
    first, second = tmp_path / "resolv.conf", tmp_path / "real.conf"
    first.write_text("search example.org\nnameserver 127.0.0.53\noptions edns0\n")
    second.write_text("nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 192.0.2.53\n")
    assert outbound.resolvers([first, second, tmp_path / "none"]) == ["192.0.2.53"]


def test_a_machine_that_was_no_router_serves_the_guests_alone() -> None:
    closed = outbound.rules("t", "172.24.4.0/24", ["eth0"])
    ours, others = 'iifname "br-ex" accept', 'iifname "eth0" ct state new drop'
    assert closed.index(ours) < closed.index(others)
    assert 'iifname "eth0"' not in outbound.rules("t", "172.24.4.0/24", [])


def test_nft_takes_the_rules() -> None:
    text = outbound.rules("nova-lxd-cloud-abcdef", "172.24.4.0/24", ["eth0"])
    try:
        done = subprocess.run(["nft", "--check", "-f", "-"], input=text, text=True,
                              capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("nft is not installed")
    if "Operation not permitted" in done.stderr:
        pytest.skip("nft needs root to check rules")
    assert done.returncode == 0, done.stderr
