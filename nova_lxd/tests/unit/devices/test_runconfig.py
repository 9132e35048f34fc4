# SPDX-License-Identifier: Apache-2.0
"""What devices hand to the instance, as values."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from nova_lxd.lxd.devices import block, nic_rules, nodes, proxy_address
from nova_lxd.lxd.devices.gpu import cards
from nova_lxd.lxd.devices.interface import BlockLimit, Mount, Nic
from nova_lxd.lxd.devices.nic_physical import Loan
from nova_lxd.lxd.paths import Paths


def test_mount_entry_escapes_spaces() -> None:
    mount = Mount(Path("/a b"), "/c d", directory=True, readonly=True, recursive=True)
    assert mount.liblxc() == [("lxc.mount.entry", "/a\\040b c\\040d none rbind,ro,create=dir 0 0")]


def test_mount_entry_of_a_file() -> None:
    assert Mount(Path("/s"), "/dev/x", directory=False).liblxc() == [
        ("lxc.mount.entry", "/s dev/x none bind,create=file 0 0")
    ]


def test_nic_items() -> None:
    nic = Nic(
        "vnic1",
        "eth0",
        "00:16:3e:00:00:01",
        [ipaddress.ip_interface("192.0.2.3/32")],
        [ipaddress.ip_address("169.254.0.1")],
    )
    assert dict(nic.liblxc(2)) == {
        "lxc.net.2.type": "phys",
        "lxc.net.2.name": "eth0",
        "lxc.net.2.flags": "up",
        "lxc.net.2.link": "vnic1",
        "lxc.net.2.hwaddr": "00:16:3e:00:00:01",
        "lxc.net.2.ipv4.address": "192.0.2.3/32",
        "lxc.net.2.ipv4.gateway": "169.254.0.1",
    }


def test_veth_names_differ_and_stay() -> None:
    paths = Paths(Path("/x"))
    names = paths.veth_names("default", "c1", "eth0")
    assert names == Paths(Path("/x")).veth_names("default", "c1", "eth0")
    others = {
        paths.veth_names("default", "c1", "eth1"),
        paths.veth_names("p", "c1", "eth0"),
        Paths(Path("/y")).veth_names("default", "c1", "eth0"),
    }
    assert names not in others and len(others) == 3
    assert all(len(name) <= 15 for name in names)


@pytest.mark.parametrize("path", ["dev/foo", "dev/a-b", "a--b/c-", "-x"])
def test_encoded_paths_come_back(path: str) -> None:
    encoded = nodes.encode(path)
    assert "/" not in encoded
    assert nodes._decode(encoded) == path


def test_loan_survives_in_an_alias() -> None:
    loan = Loan("abcd1234", "eth1", "00:16:3e:00:00:01", 1500)
    assert Loan.parse(loan.alias()) == loan
    assert len(loan.alias()) < 256
    assert Loan.parse("nova-lxd abcd default c1 eth0") is None
    assert Loan.parse("") is None


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, None),
        ({"limits.read": "10MB"}, BlockLimit(0, 0, read_bytes=10_000_000)),
        ({"limits.write": "30iops"}, BlockLimit(0, 0, write_operations=30)),
        (
            {"limits.max": "1KiB", "limits.read": "5MB"},
            BlockLimit(0, 0, read_bytes=1024, write_bytes=1024),
        ),
    ],
)
def test_disk_limits(config: dict[str, str], limit: BlockLimit | None) -> None:
    assert block.limits(config) == limit


def test_eui64() -> None:
    subnet = ipaddress.IPv6Network("fd42::/64")
    assert str(nic_rules.eui64(subnet, "00:16:3e:aa:bb:cc")) == "fd42::216:3eff:feaa:bbcc"


def test_rate_comes_before_any_accept() -> None:
    wanted = nic_rules.Filter(hwaddr="00:16:3e:00:00:01", ipv4=["10.0.0.1"], egress=8000)
    (chain,) = nic_rules.table("t", "veth0", wanted).chains
    assert "limit" in chain.rules[0][0]
    assert any({"accept": None} in rule for rule in chain.rules)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("tcp:127.0.0.1:80", (80,)),
        ("udp:[::1]:1-3,9", (1, 2, 3, 9)),
        ("unix:/run/x", ()),
        ("unix:@x", ()),
    ],
)
def test_proxy_addresses(text: str, ports: tuple[int, ...]) -> None:
    assert proxy_address.parse(text).ports == ports


def test_cards_of_a_host(tmp_path: Path) -> None:
    device = tmp_path / "sys/devices/0000:01:00.0"
    for name in ("card0", "renderD128"):
        (device / "drm" / name).mkdir(parents=True)
        (tmp_path / "dev/dri").mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev/dri" / name).touch()
    (device / "vendor").write_text("0x1002\n")
    (device / "device").write_text("0x73bf\n")
    drm = tmp_path / "sys/class/drm"
    (drm / "card0").mkdir(parents=True)
    (drm / "card0-HDMI-A-1").mkdir()
    (drm / "card0/device").symlink_to(device)
    (card,) = cards(drm, tmp_path / "dev")
    assert (card.id, card.vendor, card.product, card.pci) == (0, "1002", "73bf", "0000:01:00.0")
    assert [node.name for node in card.nodes] == ["card0", "renderD128"]
