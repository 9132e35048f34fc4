# SPDX-License-Identifier: Apache-2.0
"""Managed bridges on a real kernel, with real dnsmasq and nftables."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.network import firewall, links
from nova_lxd.lxd.network.bridge import Bridge
from nova_lxd.lxd.network.interface import HostEntry, Lease
from nova_lxd.lxd.paths import Paths
from nova_lxd.tests.functional.network.host import Guest

MAC = "00:16:3e:aa:bb:cc"
CONFIG = {"ipv4.address": "10.99.7.1/24", "ipv4.nat": "true", "ipv6.address": "fd42:99::1/64"}

pytestmark = [
    pytest.mark.usefixtures("netns"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def bridge(netns: None, paths: Paths) -> Iterator[Bridge]:
    made = Bridge(paths, "tbr0", CONFIG)
    made.validate()
    made.create()
    made.start()
    yield made
    made.delete()


def runs(pid: int) -> bool:
    """Is there a process that has not ended (and only waits for its parent's look)?"""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def plug(guest: Guest, bridge: str, mac: str = MAC) -> None:
    with Netlink() as nl:
        nl.create_veth("port0", "inner0", peer_address=mac)
        nl.set_link(nl.link("port0").index, up=True, master=nl.link(bridge).index)
    links.move_in("inner0", guest.pid, "eth0")
    guest.run("ip", "link", "set", "eth0", "up")


def ask_dhcp(guest: Guest) -> str:
    return guest.run(
        "busybox",
        "udhcpc",
        "-n",
        "-q",
        "-f",
        "-t",
        "5",
        "-T",
        "1",
        "-i",
        "eth0",
        "-s",
        "/bin/true",
    )


def leases_of(bridge: Bridge, kind: str) -> list[Lease]:
    return [lease for lease in bridge.leases() if lease.kind == kind]


def test_start_gives_addresses_rules_and_a_server(bridge: Bridge, paths: Paths) -> None:
    state = bridge.state()
    shown = {(a.family, a.address, a.netmask) for a in state.addresses}
    assert {("inet", "10.99.7.1", "24"), ("inet6", "fd42:99::1", "64")} <= shown
    assert state.state == "up"
    assert state.bridge is not None and state.bridge.id.startswith("8000.")
    assert firewall.tables(paths.tag) == [("inet", f"nova_lxd_{paths.tag}_net_tbr0")]
    assert bridge.dnsmasq.pid() is not None


def test_dnsmasq_is_not_root(bridge: Bridge) -> None:
    pid = bridge.dnsmasq.pid()
    assert pid is not None
    assert os.stat(f"/proc/{pid}").st_uid != 0


def test_start_again_keeps_the_server(bridge: Bridge) -> None:
    before = bridge.dnsmasq.pid()
    Bridge(bridge.paths, bridge.name, bridge.config).start()
    assert bridge.dnsmasq.pid() == before


def test_start_repairs_what_was_lost(bridge: Bridge, paths: Paths) -> None:
    pid = bridge.dnsmasq.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    links.delete("tbr0")
    firewall.remove("inet", f"nova_lxd_{paths.tag}_net_tbr0")
    bridge.start()
    assert bridge.is_up()
    assert bridge.dnsmasq.pid() not in (None, pid)
    assert len(firewall.tables(paths.tag)) == 1


def test_stop_leaves_nothing(bridge: Bridge, paths: Paths) -> None:
    pid = bridge.dnsmasq.pid()
    assert pid is not None
    bridge.stop()
    bridge.stop()
    assert not links.exists("tbr0")
    assert firewall.tables(paths.tag) == []
    assert not runs(pid)


def test_dhcp_gives_the_recorded_address_and_releases_it(
    bridge: Bridge, guest: Callable[[], Guest]
) -> None:
    bridge.set_host(HostEntry("c1", "eth0", MAC, "c1", ipv4="10.99.7.50"))
    inside = guest()
    plug(inside, "tbr0")
    assert "lease of 10.99.7.50 obtained" in ask_dhcp(inside)
    assert [(x.hostname, x.address) for x in leases_of(bridge, "static")] == [("c1", "10.99.7.50")]
    bridge.forget_host("c1", "eth0")
    end = time.monotonic() + 5
    while bridge.dnsmasq.leases() and time.monotonic() < end:
        time.sleep(0.05)
    assert bridge.dnsmasq.leases() == []


def test_dynamic_lease_is_shown(bridge: Bridge, guest: Callable[[], Guest]) -> None:
    bridge.set_host(HostEntry("proj_c2", "eth0", MAC, "c2.proj"))
    inside = guest()
    plug(inside, "tbr0")
    ask_dhcp(inside)
    (lease,) = leases_of(bridge, "dynamic")
    assert (lease.hwaddr, lease.project) == (MAC, "proj")
    assert lease.address.startswith("10.99.7.")


def test_dns_knows_names_of_nics(bridge: Bridge, guest: Callable[[], Guest]) -> None:
    bridge.set_host(HostEntry("c1", "eth0", MAC, "c1", ipv4="10.99.7.51"))
    inside = guest()
    plug(inside, "tbr0")
    ask_dhcp(inside)
    inside.run("ip", "addr", "add", "10.99.7.51/24", "dev", "eth0")
    assert "10.99.7.51" in inside.run("busybox", "nslookup", "c1.lxd", "10.99.7.1", check=False)


def test_nat_hides_the_guest_behind_the_host(bridge: Bridge, guest: Callable[[], Guest]) -> None:
    outside, inside = guest(), guest()
    with Netlink() as nl:
        nl.create_veth("up0", "up1")
        nl.set_link(nl.link("up0").index, up=True)
    links.move_in("up1", outside.pid, "eth0")
    outside.run("ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
    outside.run("ip", "link", "set", "eth0", "up")
    os.system("ip addr add 192.0.2.1/24 dev up0")
    plug(inside, "tbr0")
    inside.run("ip", "addr", "add", "10.99.7.60/24", "dev", "eth0")
    inside.run("ip", "route", "add", "default", "via", "10.99.7.1")
    # The outside has no route back to 10.99.7.0/24: only translated packets are answered.
    assert inside.can_reach("192.0.2.2")
    bridge.update({**bridge.config, "ipv4.nat": "false"})
    assert not inside.can_reach("192.0.2.2")


def test_update_changes_addresses_and_routes(bridge: Bridge) -> None:
    bridge.update(
        {
            **CONFIG,
            "ipv4.address": "10.99.8.1/24",
            "ipv6.address": "none",
            "ipv4.routes": "10.98.0.0/24",
        }
    )
    with Netlink() as nl:
        index = nl.link("tbr0").index
        addresses = {str(a.interface) for a in nl.addresses(index)}
        routes = {str(r.destination) for r in nl.routes() if r.index == index}
    assert addresses == {"10.99.8.1/24"}
    assert "10.98.0.0/24" in routes


def test_update_that_fails_goes_back(bridge: Bridge) -> None:
    with pytest.raises(Exception, match="dnsmasq"):
        bridge.update({**CONFIG, "raw.dnsmasq": "no-such-option=1"})
    Bridge(bridge.paths, "tbr0", CONFIG).start()
    assert bridge.dnsmasq.pid() is not None


def test_start_that_fails_leaves_nothing(paths: Paths) -> None:
    broken = Bridge(paths, "tbr1", {**CONFIG, "raw.dnsmasq": "no-such-option=1"})
    broken.create()
    with pytest.raises(Exception, match="dnsmasq"):
        broken.start()
    assert not links.exists("tbr1")
    assert firewall.tables(paths.tag) == []


def test_auto_avoids_subnets_in_use(bridge: Bridge, paths: Paths) -> None:
    with Netlink() as nl:
        used = links.used_subnets(nl)
    other = Bridge(paths, "tbr2", {"ipv4.address": "auto", "ipv6.address": "auto"})
    chosen = Bridge(paths, "tbr2", other.choose_addresses(["10.1.2.1/24"]))
    chosen.validate()
    mine = chosen._address("ipv4")
    assert mine is not None
    assert not any(mine.network.overlaps(net) for net in used if net.version == 4)


def test_external_interface_enters_and_leaves(bridge: Bridge) -> None:
    with Netlink() as nl:
        nl.create_veth("ext0", "ext1")
    bridge.update({**CONFIG, "bridge.external_interfaces": "ext0"})
    with Netlink() as nl:
        assert nl.link("ext0").master == nl.link("tbr0").index
    bridge.update(CONFIG)
    with Netlink() as nl:
        assert nl.link("ext0").master == 0


def test_external_interface_with_an_address_is_refused(bridge: Bridge) -> None:
    with Netlink() as nl:
        nl.create_veth("ext0", "ext1")
    os.system("ip addr add 192.0.2.9/24 dev ext0")
    with pytest.raises(BadRequest, match="unconfigured"):
        bridge.update({**CONFIG, "bridge.external_interfaces": "ext0"})


def test_create_refuses_a_name_in_use(paths: Paths) -> None:
    with pytest.raises(Conflict):
        Bridge(paths, "lo", CONFIG).create()
