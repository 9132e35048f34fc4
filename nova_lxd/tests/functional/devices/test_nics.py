# SPDX-License-Identifier: Apache-2.0
"""Nics on a real kernel: made, handed to a guest, limited, filtered, and gone again."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from nova_lxd.lxd.devices import live, load
from nova_lxd.lxd.devices.interface import Device, Host, InstanceView, Nic, RunConfig
from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.network import firewall, links
from nova_lxd.lxd.network.bridge import Bridge
from nova_lxd.lxd.paths import Paths
from nova_lxd.tests.functional.network.host import Guest
from nova_lxd.tests.unit.devices.fakes import make_host, view

CONFIG = {"ipv4.address": "10.99.7.1/24", "ipv6.address": "fd42:99::1/64"}
NODAD = {4: (), 6: ("nodad",)}
MAC = "00:16:3e:00:00:07"

pytestmark = [
    pytest.mark.usefixtures("netns"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


class Lab:
    """Devices of one guest, with ``volatile`` kept as the instance layer does."""

    def __init__(self, host: Host, guest: Guest, name: str = "c1") -> None:
        self.host, self.guest = host, guest
        self.view: InstanceView = view({}, name=name)

    def device(self, config: Mapping[str, str], name: str = "eth0") -> Device:
        return load.load(name, config, self.view, self.host)

    def record(self, device: str, changes: Mapping[str, str | None]) -> None:
        config = dict(self.view.config)
        for key, value in changes.items():
            config.pop(f"volatile.{device}.{key}", None)
            if value is not None:
                config[f"volatile.{device}.{key}"] = value
        self.view = replace(self.view, config=config)

    def plug(self, config: Mapping[str, str], name: str = "eth0") -> RunConfig:
        device = self.device(config, name)
        device.validate()
        run = device.start()
        self.record(name, run.volatile)
        for nic in run.nics:
            live.plug_nic(nic, self.guest.pid)
            self._configure(nic)
        self.view = replace(self.view, init_pid=self.guest.pid)
        return run

    def _configure(self, nic: Nic) -> None:
        """What liblxc does at a start from the items that :meth:`Nic.liblxc` gives it."""
        self.guest.run("ip", "link", "set", nic.name, "up")
        for address in nic.addresses:
            self.guest.run(
                "ip", "addr", "add", str(address), "dev", nic.name, *NODAD[address.version]
            )
        for gateway in nic.gateways:
            family = f"-{gateway.version}"
            self.guest.run("ip", family, "route", "add", str(gateway), "dev", nic.name)
            self.guest.run(
                "ip", family, "route", "add", "default", "via", str(gateway), "dev", nic.name
            )

    def unplug(self, config: Mapping[str, str], name: str = "eth0") -> None:
        device = self.device(config, name)
        device.stop()
        self.record(name, device.post_stop())


@pytest.fixture
def bridge(netns: None, paths: Paths) -> Iterator[Bridge]:
    made = Bridge(paths, "tbr0", CONFIG)
    made.create()
    made.start()
    yield made
    made.delete()


@pytest.fixture
def lab(bridge: Bridge, paths: Paths, guest: Callable[[], Guest]) -> Lab:
    return Lab(make_host(paths.root, bridge), guest())


def interfaces() -> set[str]:
    with Netlink() as nl:
        return {link.name for link in nl.links()}


def bridged(**extra: str) -> dict[str, str]:
    return {"type": "nic", "network": "tbr0", "name": "eth0", "hwaddr": MAC} | {
        key.replace("__", "."): value for key, value in extra.items()
    }


def test_bridged_nic_comes_and_goes(lab: Lab, bridge: Bridge) -> None:
    before = interfaces()
    config = bridged(ipv4__address="10.99.7.20")
    run = lab.plug(config)
    (nic,) = run.nics
    assert (nic.name, nic.hwaddr) == ("eth0", MAC)
    lab.guest.run("ip", "addr", "add", "10.99.7.20/24", "dev", "eth0")
    assert lab.guest.can_reach("10.99.7.1")
    assert MAC in lab.guest.run("ip", "link", "show", "eth0")
    assert [x.address for x in bridge.leases() if x.kind == "static"] == ["10.99.7.20"]
    lab.unplug(config)
    assert interfaces() == before
    assert "eth0" not in lab.guest.run("ip", "link")
    lab.device(config).remove()
    assert [x for x in bridge.leases() if x.kind == "static"] == []


def test_start_after_a_crash_replaces_what_was_left(lab: Lab) -> None:
    config = bridged()
    # The first life is never recorded, as when the daemon is killed right after the start.
    lab.device(config).start()
    before = interfaces()
    lab.device(config).start()
    assert interfaces() == before
    lab.device(config).post_stop()
    assert interfaces() == {"lo", "tbr0"}


def test_nic_that_fails_to_start_leaves_nothing(lab: Lab, paths: Paths) -> None:
    before = interfaces()
    with pytest.raises(BadRequest, match="doesn't exist"):
        lab.device({"type": "nic", "nictype": "bridged", "parent": "nobr0"}).start()
    with Netlink() as nl:
        nl.create_veth("taken0", "taken1")
    with pytest.raises(Conflict, match="taken0"):
        lab.device(bridged(host_name="taken0", limits__egress="1Mbit")).start()
    assert interfaces() == before | {"taken0", "taken1"}
    assert len(firewall.tables(paths.tag)) == 1  # The bridge's own.


def test_mac_filter_drops_a_forged_sender(lab: Lab) -> None:
    config = bridged(security__mac_filtering="true")
    lab.plug(config)
    lab.guest.run("ip", "addr", "add", "10.99.7.20/24", "dev", "eth0")
    assert lab.guest.can_reach("10.99.7.1")
    lab.guest.run("ip", "link", "set", "eth0", "address", "00:16:3e:00:00:99")
    assert not lab.guest.can_reach("10.99.7.1")


def test_ipv4_filter_allows_dhcp_and_the_given_address_only(lab: Lab, bridge: Bridge) -> None:
    lab.plug(bridged(security__ipv4_filtering="true"))
    lease = lab.guest.run(
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
    (given,) = [x.address for x in bridge.leases() if x.kind == "static"]
    assert f"lease of {given} obtained" in lease
    lab.guest.run("ip", "addr", "add", f"{given}/24", "dev", "eth0")
    assert lab.guest.can_reach("10.99.7.1")
    lab.guest.run("ip", "addr", "flush", "dev", "eth0")
    lab.guest.run("ip", "addr", "add", "10.99.7.200/24", "dev", "eth0")
    assert not lab.guest.can_reach("10.99.7.1")


def test_ipv6_filter_allows_the_address_of_the_mac_only(lab: Lab) -> None:
    lab.plug(bridged(security__ipv6_filtering="true"))
    own = "fd42:99::216:3eff:fe00:7"
    lab.guest.run("ip", "addr", "add", f"{own}/64", "dev", "eth0", "nodad")
    time.sleep(0.2)
    assert lab.guest.can_reach("fd42:99::1")
    lab.guest.run("ip", "addr", "del", f"{own}/64", "dev", "eth0")
    lab.guest.run("ip", "addr", "add", "fd42:99::bad/64", "dev", "eth0", "nodad")
    assert not lab.guest.can_reach("fd42:99::1")


def test_no_address_blocks_the_family(lab: Lab) -> None:
    lab.plug(bridged(security__ipv4_filtering="true", ipv4__address="none"))
    lab.guest.run("ip", "addr", "add", "10.99.7.20/24", "dev", "eth0")
    assert not lab.guest.can_reach("10.99.7.1")


def transfer_rate(sender: Callable[[int], subprocess.Popen[str]], address: str) -> float:
    """Bits per second of a TCP stream at a listener here, once the first bursts are over."""
    with socket.create_server((address, 0)) as server:
        server.settimeout(10)
        process = sender(server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            begin = time.monotonic()
            while time.monotonic() < begin + 1.5:
                connection.recv(65536)
            start, received = time.monotonic(), 0
            while time.monotonic() < start + 1.5:
                received += len(connection.recv(65536))
            taken = time.monotonic() - start
        process.kill()
        process.communicate()
    return received * 8 / taken


SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    while True:
        s.sendall(bytes(65536))
"""


def test_limits_hold_in_both_directions_and_change_live(lab: Lab) -> None:
    config = bridged(limits__egress="20Mbit", limits__ingress="10Mbit")
    run = lab.plug(config)
    lab.guest.run("ip", "addr", "add", "10.99.7.20/24", "dev", "eth0")

    def send(port: int) -> subprocess.Popen[str]:
        return lab.guest.popen("python3", "-c", SEND, "10.99.7.1", str(port))

    assert 8e6 < transfer_rate(send, "10.99.7.1") < 24e6
    host_name = run.volatile["host_name"]
    assert host_name is not None
    shown = subprocess.run(
        ["tc", "class", "show", "dev", host_name], capture_output=True, text=True, check=True
    )
    assert "rate 10Mbit" in shown.stdout
    lifted = bridged()
    lab.device(lifted).update(config)
    assert transfer_rate(send, "10.99.7.1") > 100e6
    shown = subprocess.run(
        ["tc", "class", "show", "dev", host_name], capture_output=True, text=True, check=True
    )
    assert "htb" not in shown.stdout


def test_p2p_has_the_name_that_was_asked_for(lab: Lab) -> None:
    config = {
        "type": "nic",
        "nictype": "p2p",
        "host_name": "tapthis0",
        "ipv4.routes": "203.0.113.5/32",
        "mtu": "1400",
    }
    run = lab.plug(config, "data")
    assert run.volatile["name"] == "eth0"
    with Netlink() as nl:
        link = nl.link("tapthis0")
        assert link.up and link.mtu == 1400
        routes = {str(r.destination) for r in nl.routes() if r.index == link.index}
    assert "203.0.113.5/32" in routes
    lab.unplug(config, "data")
    assert not links.exists("tapthis0")


def test_p2p_spares_an_interface_of_somebody_else(lab: Lab) -> None:
    with Netlink() as nl:
        nl.create_veth("other0", "other1")
    config = {"type": "nic", "nictype": "p2p", "host_name": "other0"}
    with pytest.raises(Conflict):
        lab.device(config).start()
    lab.device(config).post_stop()
    assert links.exists("other0")


def test_macvlan_comes_and_goes(lab: Lab) -> None:
    with Netlink() as nl:
        nl.create_veth("up0", "up1")
        nl.set_link(nl.link("up0").index, up=True)
        nl.set_link(nl.link("up1").index, up=True)
    before = interfaces()
    config = {"type": "nic", "nictype": "macvlan", "parent": "up0", "hwaddr": MAC}
    lab.plug(config)
    assert "macvlan" in lab.guest.run("ip", "-d", "link", "show", "eth0")
    lab.unplug(config)
    assert interfaces() == before


def test_physical_comes_back_as_it_was(lab: Lab) -> None:
    with Netlink() as nl:
        nl.create_veth("phys0", "phys1", address="00:16:3e:00:00:01")
    config = {
        "type": "nic",
        "nictype": "physical",
        "parent": "phys0",
        "hwaddr": MAC,
        "mtu": "1300",
    }
    run = lab.plug(config)
    assert run.volatile["last_state.hwaddr"] == "00:16:3e:00:00:01"
    assert not links.exists("phys0")
    inside = lab.guest.run("ip", "link", "show", "eth0")
    assert MAC in inside and "mtu 1300" in inside
    lab.unplug(config)
    with Netlink() as nl:
        back = nl.link("phys0")
    assert (back.address, back.mtu, back.alias) == ("00:16:3e:00:00:01", 1500, "")


def test_physical_is_known_again_under_another_name(lab: Lab) -> None:
    with Netlink() as nl:
        nl.create_veth("phys0", "phys1")
    config = {"type": "nic", "nictype": "physical", "parent": "phys0"}
    run = lab.device(config).start()
    lab.record("eth0", run.volatile)
    # What the kernel does when a namespace ends whose interface's name is taken on the host.
    with Netlink() as nl:
        nl.set_link(nl.link("phys0").index, name="dev7")
    lab.device(config).post_stop()
    assert links.exists("phys0") and not links.exists("dev7")


def test_routed_reaches_the_host_and_nothing_forged_does(lab: Lab, paths: Paths) -> None:
    config = {
        "type": "nic",
        "nictype": "routed",
        "name": "eth0",
        "ipv4.address": "198.51.100.7",
        "ipv6.address": "2001:db8::7",
    }
    before = interfaces()
    lab.plug(config)
    assert "default via 169.254.0.1" in lab.guest.run("ip", "route")
    assert "default via fe80::1" in lab.guest.run("ip", "-6", "route")
    with Netlink() as nl:
        nl.add_address(nl.link("lo").index, ipaddress.ip_interface("192.0.2.77/32"))
    assert lab.guest.can_reach("192.0.2.77")
    assert lab.guest.can_reach("169.254.0.1")
    lab.guest.run("ip", "addr", "add", "198.51.100.8/32", "dev", "eth0")
    lab.guest.run(
        "ip",
        "route",
        "replace",
        "192.0.2.77",
        "via",
        "169.254.0.1",
        "dev",
        "eth0",
        "onlink",
        "src",
        "198.51.100.8",
    )
    assert not lab.guest.can_reach("192.0.2.77")
    lab.unplug(config)
    assert interfaces() == before
    assert len(firewall.tables(paths.tag)) == 1


def test_routed_answers_on_the_parent(lab: Lab, guest: Callable[[], Guest]) -> None:
    outside = guest()
    with Netlink() as nl:
        nl.create_veth("up0", "up1")
        nl.set_link(nl.link("up0").index, up=True)
        nl.add_address(nl.link("up0").index, ipaddress.ip_interface("198.51.100.1/24"))
    links.move_in("up1", outside.pid, "eth0")
    outside.run("ip", "addr", "add", "198.51.100.2/24", "dev", "eth0")
    outside.run("ip", "link", "set", "eth0", "up")
    config = {
        "type": "nic",
        "nictype": "routed",
        "parent": "up0",
        "ipv4.address": "198.51.100.7",
    }
    links.set_sysctl("ipv4/conf/up0/forwarding", "0")
    with pytest.raises(BadRequest, match=r"net\.ipv4\.conf\.up0\.forwarding=1"):
        lab.device(config).start()
    links.set_sysctl("ipv4/conf/up0/forwarding", "1")
    lab.plug(config)
    assert outside.can_reach("198.51.100.7")
    lab.unplug(config)
    assert not outside.can_reach("198.51.100.7")


def test_vlan_is_refused_clearly_or_works(lab: Lab) -> None:
    with Netlink() as nl:
        nl.create_veth("up0", "up1")
        nl.set_link(nl.link("up0").index, up=True)
    before = interfaces()
    config = {"type": "nic", "nictype": "macvlan", "parent": "up0", "vlan": "7"}
    try:
        lab.plug(config)
    except BadRequest as exc:
        assert "802.1Q" in exc.message
    else:
        assert links.exists("up0.7")
        lab.unplug(config)
    assert interfaces() == before
