# SPDX-License-Identifier: Apache-2.0
"""Managed bridges: addresses, leases, names, NAT; and the nics that use them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from nova_lxd.tests.functional.conftest import SUBNET, Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


@pytest.fixture
def network(daemon: Daemon) -> Iterator[str]:
    """A second bridge; declare it before ``launch``."""
    daemon.lxc("network", "create", "br1", "ipv4.address=10.88.0.1/24", "ipv6.address=none")
    yield "br1"
    daemon.lxc("network", "delete", "br1")


def test_create_makes_a_bridge_and_delete_removes_it(daemon: Daemon) -> None:
    daemon.lxc(
        "network",
        "create",
        "brx",
        "ipv4.address=10.99.0.1/24",
        "ipv4.nat=true",
        "ipv6.address=fd42:99::1/64",
    )
    addresses = daemon.inside("ip", "-o", "addr", "show", "brx").stdout
    assert "10.99.0.1/24" in addresses and "fd42:99::1/64" in addresses
    shown = daemon.get("/1.0/networks/brx")
    assert shown["type"] == "bridge" and shown["managed"] is True
    assert shown["status"] == "Created" and not shown["used_by"]
    assert shown["config"]["ipv4.nat"] == "true"
    assert daemon.inside("pgrep", "-f", "dnsmasq.*brx").stdout
    rules = daemon.inside("nft", "list", "ruleset").stdout
    assert "brx" in rules and "masquerade" in rules
    daemon.lxc("network", "delete", "brx")
    assert daemon.inside("ip", "link", "show", "brx", check=False).returncode != 0
    assert daemon.inside("pgrep", "-f", "dnsmasq.*brx", check=False).returncode == 1
    assert "brx" not in daemon.inside("nft", "list", "ruleset").stdout
    assert not (daemon.lxd_dir / "networks" / "brx").exists()


def test_a_copy_keeps_a_static_address_and_cannot_run_beside_its_source(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch(start=False)
    other = launch(start=False)
    address = f"ipv4.address={SUBNET}.77"
    daemon.lxc("config", "device", "override", name, "eth0", address)
    assert "already defined" in daemon.refused(
        "config", "device", "override", other, "eth0", address
    )
    daemon.lxc("copy", name, "twin")
    try:
        assert daemon.instance("twin")["devices"]["eth0"]["ipv4.address"] == f"{SUBNET}.77"
        assert "already defined" in daemon.refused("start", "twin")
        daemon.lxc("delete", "--force", name)
        daemon.lxc("start", "twin")
        assert daemon.ipv4("twin") == f"{SUBNET}.77"
    finally:
        daemon.lxc("delete", "--force", "twin")


def test_guest_gets_an_address_and_a_lease(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    address = daemon.ipv4(name)
    assert address.startswith(f"{SUBNET}.")
    hwaddr = daemon.instance(name)["config"]["volatile.eth0.hwaddr"]
    assert hwaddr.startswith("00:16:3e:")
    leases = daemon.get("/1.0/networks/lxdbr0/leases")
    mine = [lease for lease in leases if lease["hostname"] == name]
    assert [(lease["address"], lease["hwaddr"], lease["type"]) for lease in mine] == [
        (address, hwaddr, "dynamic")
    ]
    assert address in daemon.lxc("network", "list-leases", "lxdbr0").stdout
    daemon.inside("busybox", "ping", "-c1", "-W2", address)


def test_names_resolve(daemon: Daemon, launch: Launch) -> None:
    one, two = launch(), launch()
    address = daemon.ipv4(two)
    daemon.ipv4(one)
    found = daemon.exec(one, "nslookup", f"{two}.lxd")
    assert f"Address: {address}" in found
    daemon.exec(one, "ping", "-c1", "-W2", address)
    found = daemon.exec(one, "nslookup", "_gateway.lxd")
    assert f"Address: {SUBNET}.1" in found


def test_traffic_leaves_through_nat(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.ipv4(name)
    daemon.inside("ip", "addr", "replace", "192.0.2.1/32", "dev", "lo")
    daemon.exec(name, "ping", "-c1", "-W2", "192.0.2.1")
    assert daemon.exec(name, "sh", "-c", "ip route | grep default").startswith(
        f"default via {SUBNET}.1 dev eth0"
    )


def test_static_address(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("config", "device", "override", name, "eth0", f"ipv4.address={SUBNET}.200")
    daemon.lxc("start", name)
    assert daemon.ipv4(name) == f"{SUBNET}.200"
    leases = daemon.get("/1.0/networks/lxdbr0/leases")
    assert [each["type"] for each in leases if each["hostname"] == name] == ["static"]
    other = launch(start=False)
    message = daemon.refused(
        "config", "device", "override", other, "eth0", f"ipv4.address={SUBNET}.200"
    )
    assert "200" in message or "in use" in message.lower()


def test_edit_changes_the_running_bridge(daemon: Daemon, network: str, launch: Launch) -> None:
    daemon.lxc("network", "set", network, "ipv4.address=10.89.0.1/24")
    addresses = daemon.inside("ip", "-o", "-4", "addr", "show", network).stdout
    assert "10.89.0.1/24" in addresses and "10.88.0.1" not in addresses
    name = launch("-n", network)
    assert daemon.ipv4(name).startswith("10.89.0.")
    shown = daemon.get(f"/1.0/networks/{network}")
    assert shown["used_by"] == [f"/1.0/instances/{name}"]
    assert "in use" in daemon.refused("network", "delete", network)
    text = daemon.lxc("network", "show", network).stdout
    text = text.replace('description: ""', "description: D")
    daemon.lxc("network", "edit", network, input=text)
    assert daemon.get(f"/1.0/networks/{network}")["description"] == "D"


def test_dhcp_range_and_domain(daemon: Daemon, network: str, launch: Launch) -> None:
    daemon.lxc(
        "network", "set", network, "ipv4.dhcp.ranges=10.88.0.50-10.88.0.52", "dns.domain=example"
    )
    name = launch("-n", network)
    assert daemon.ipv4(name) in {f"10.88.0.{i}" for i in (50, 51, 52)}
    assert "search example" in daemon.exec(name, "cat", "/etc/resolv.conf")


def test_attach_and_detach_live(daemon: Daemon, network: str, launch: Launch) -> None:
    name = launch()
    daemon.lxc("network", "attach", network, name, "eth1", "eth1")
    daemon.exec(name, "ip", "link", "set", "eth1", "up")
    state = daemon.get(f"/1.0/instances/{name}/state")["network"]["eth1"]
    host = state["host_name"]
    assert host and daemon.inside("ip", "link", "show", host).stdout
    master = daemon.inside("cat", f"/sys/class/net/{host}/master/uevent").stdout
    assert f"INTERFACE={network}" in master
    daemon.lxc("network", "detach", network, name)
    assert daemon.exec(name, "sh", "-c", "ls /sys/class/net | grep eth1", check=False) == ""
    assert daemon.inside("ip", "link", "show", host, check=False).returncode != 0


def test_state_of_a_network(daemon: Daemon, launch: Launch) -> None:
    launch()
    state = daemon.get("/1.0/networks/lxdbr0/state")
    assert state["state"] == "up" and state["type"] == "broadcast" and state["mtu"] == 1500
    assert state["bridge"]["stp"] is False
    assert len(state["bridge"]["upper_devices"]) == 1
    assert {"family": "inet", "address": f"{SUBNET}.1", "netmask": "24", "scope": "global"} in (
        state["addresses"]
    )
    info = daemon.lxc("network", "info", "lxdbr0").stdout
    assert f"{SUBNET}.1/24" in info


def test_unmanaged_interfaces_are_listed(daemon: Daemon) -> None:
    daemon.inside("ip", "link", "add", "phys0", "type", "veth", "peer", "name", "phys1")
    try:
        lo = daemon.get("/1.0/networks/lo")
        assert lo["managed"] is False and lo["type"] == "loopback"
        assert daemon.get("/1.0/networks/phys0")["managed"] is False
        listed = json.loads(daemon.lxc("network", "list", "-fjson").stdout)
        assert {"lo", "lxdbr0", "phys0"} <= {each["name"] for each in listed}
        assert daemon.refused("network", "delete", "phys0")
    finally:
        daemon.inside("ip", "link", "del", "phys0")


def test_rename(daemon: Daemon) -> None:
    daemon.lxc("network", "create", "bra", "ipv4.address=none", "ipv6.address=none")
    daemon.lxc("network", "rename", "bra", "brb")
    assert daemon.inside("ip", "link", "show", "brb").stdout
    assert daemon.inside("ip", "link", "show", "bra", check=False).returncode != 0
    daemon.lxc("network", "delete", "brb")


@pytest.mark.parametrize(
    "arguments",
    [
        ("bad/name",),
        ("waytoolonganame0",),
        ("br9", "ipv4.address=10.0.0.0.1/24"),
        ("br9", "ipv4.address=10.0.0.1"),
        ("br9", "nonsense=1"),
        ("br9", "ipv4.nat=perhaps"),
        ("br9", "ipv4.address=none", "ipv6.address=none", "bridge.mtu=12"),
        ("br9", "ipv4.dhcp.ranges=1-2"),
        ("lo",),
    ],
)
def test_bad_networks_are_refused(daemon: Daemon, arguments: tuple[str, ...]) -> None:
    before = daemon.get("/1.0/networks")
    assert daemon.refused("network", "create", *arguments)
    assert daemon.get("/1.0/networks") == before


def test_bridges_come_back_after_a_restart(own: Daemon) -> None:
    own.lxc("launch", "busybox", "c1")
    address = own.ipv4("c1")
    own.restart()
    assert own.inside("pgrep", "-fc", "dnsmasq.*lxdbr0").stdout.strip() == "1"
    assert f"{SUBNET}.1/24" in own.inside("ip", "-o", "-4", "addr", "show", "lxdbr0").stdout
    own.inside("busybox", "ping", "-c1", "-W2", address)
    own.lxc("restart", "-f", "c1")
    assert own.ipv4("c1") == address


def test_limits_on_a_nic(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc(
        "config",
        "device",
        "override",
        name,
        "eth0",
        "limits.ingress=10Mbit",
        "limits.egress=20Mbit",
    )
    done = daemon.lxc("start", name, check=False)
    if done.returncode != 0:
        # tc police is not in every kernel; without it the start is refused and undone.
        assert daemon.status(name) == "Stopped"
        assert "veth" not in daemon.inside("ip", "-o", "link").stdout
        return
    host = daemon.get(f"/1.0/instances/{name}/state")["network"]["eth0"]["host_name"]
    assert "htb" in daemon.inside("tc", "qdisc", "show", "dev", host).stdout


def test_mac_filter(daemon: Daemon, launch: Launch) -> None:
    name, peer = launch(start=False), launch()
    daemon.lxc("config", "device", "override", name, "eth0", "security.mac_filtering=true")
    daemon.lxc("start", name)
    address = daemon.ipv4(name)
    target = daemon.ipv4(peer)
    daemon.exec(name, "ping", "-c1", "-W2", target)
    daemon.exec(
        name,
        "sh",
        "-c",
        "ip link set eth0 down; ip link set eth0 address 00:16:3e:00:00:99;"
        f"ip link set eth0 up; ip addr replace {address}/24 dev eth0",
    )
    assert daemon.lxc("exec", name, "--", "ping", "-c1", "-W1", target, check=False).returncode


def test_fixed_hwaddr(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("config", "device", "override", name, "eth0", "hwaddr=00:16:3e:11:22:33")
    daemon.lxc("start", name)
    assert daemon.exec(name, "cat", "/sys/class/net/eth0/address") == "00:16:3e:11:22:33"
    refused = daemon.refused("config", "device", "set", name, "eth0", "mtu", "1400")
    assert "mtu" in refused


def test_p2p_and_macvlan_and_physical_and_routed(daemon: Daemon, launch: Launch) -> None:
    daemon.inside("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    daemon.inside("ip", "link", "set", "up0", "up")
    daemon.inside("ip", "link", "set", "up1", "up")
    try:
        name = launch(start=False)
        daemon.lxc("config", "device", "override", name, "eth0", "hwaddr=00:16:3e:00:00:01")
        for nic in (
            ("p2p", "name=p0", "host_name=hostp0"),
            ("macvlan", "name=m0", "parent=up0"),
            ("physical", "name=ph0", "parent=up1"),
            ("routed", "name=r0", "ipv4.address=198.51.100.7", "ipv4.host_address=169.254.7.1"),
        ):
            kind, *rest = nic
            daemon.lxc(
                "config", "device", "add", name, f"n{kind}", "nic", f"nictype={kind}", *rest
            )
        daemon.lxc("start", name)
        links = daemon.exec(name, "ls", "/sys/class/net").split()
        assert {"p0", "m0", "ph0", "r0"} <= set(links)
        assert daemon.inside("ip", "link", "show", "hostp0").stdout
        assert daemon.inside("ip", "link", "show", "up1", check=False).returncode != 0
        assert "198.51.100.7" in daemon.inside("ip", "route").stdout
        assert "198.51.100.7" in daemon.exec(name, "ip", "addr", "show", "r0")
        daemon.lxc("stop", "-f", name)
        wait_for(
            lambda: daemon.inside("ip", "link", "show", "up1", check=False).returncode == 0,
            "the physical nic back on the host",
        )
        assert daemon.inside("ip", "link", "show", "hostp0", check=False).returncode != 0
    finally:
        daemon.inside("ip", "link", "del", "up0", check=False)
