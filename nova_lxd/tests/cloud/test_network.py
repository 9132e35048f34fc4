# SPDX-License-Identifier: Apache-2.0
"""Security groups, traffic between guests, ports that come and go."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from nova_lxd.tests.cloud.world import Guest, World, eventually

PORT = 8000
SERVE = f"nohup python3 -m http.server {PORT} >/dev/null 2>&1 </dev/null & sleep 1"


def connects(address: str, port: int, seconds: float = 2.0) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), seconds).close()
        return True
    return False


def test_security_group_is_enforced(guest: Guest, world: World) -> None:
    _, server, address = guest
    network = world.api.network
    group = network.create_security_group(name="web")
    world.undo.callback(network.delete_security_group, group, ignore_missing=True)
    world.ssh(address, SERVE)
    assert not connects(address, PORT), "no rule lets this port in"

    rule = network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ethertype="IPv4", protocol="tcp",
        port_range_min=PORT, port_range_max=PORT)
    world.api.compute.add_security_group_to_server(server, group)
    world.undo.callback(world.api.compute.remove_security_group_from_server, server, group)
    eventually("the new rule", 15, lambda: connects(address, PORT))

    network.delete_security_group_rule(rule)
    eventually("the rule's removal", 15, lambda: not connects(address, PORT))


def test_guests_reach_each_other(guest: Guest, world: World) -> None:
    _, first, address = guest
    second = world.boot("right")
    inner = second.addresses["private"][0]["addr"]
    world.wait_ssh(address, f"ping -c1 -W2 {inner}")
    # sshd answers any client of the security group's port 22: TCP payload passes.
    banner = world.wait_ssh(
        address, f"timeout 5 bash -c 'exec 3<>/dev/tcp/{inner}/22; head -c 7 <&3'")
    assert banner == "SSH-2.0"
    assert first.id != second.id


def test_large_transfer_through_the_floating_ip(guest: Guest) -> None:
    """Offloaded checksums or segments would stall it: see the docs about the switch."""
    world, _, address = guest
    size = 32 << 20
    assert len(world.ssh(address, f"head -c {size} /dev/zero", timeout=60)) == size


def interfaces(world: World, address: str) -> set[str]:
    return set(world.ssh(address, "ls /sys/class/net").split())


def test_port_is_attached_and_detached(guest: Guest) -> None:
    world, server, address = guest
    before = interfaces(world, address)
    network = world.api.network.find_network("private")
    attached: Any = world.api.compute.create_server_interface(server, net_id=network.id)
    new = eventually("the new interface", 30, lambda: interfaces(world, address) - before)
    mac = world.ssh(address, f"cat /sys/class/net/{new.pop()}/address").strip()
    assert mac == attached.mac_addr

    world.api.compute.delete_server_interface(attached, server=server)
    eventually("the interface's removal", 30, lambda: interfaces(world, address) == before)
    world.ssh(address, "true")


@pytest.mark.full
def test_chosen_address(world: World) -> None:
    network = world.api.network.find_network("private")
    server = world.boot("fixed", networks=[{"uuid": network.id, "fixed_ip": "10.66.0.222"}])
    assert server.addresses["private"][0]["addr"] == "10.66.0.222"
    address = world.floating_ip(server)
    assert "10.66.0.222/24" in world.wait_ssh(address, "ip -4 -o address show dev eth0")
