# SPDX-License-Identifier: Apache-2.0
"""Security groups, traffic between guests, ports that come and go."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
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


# Documentation's own subnet (RFC 5737) stands for the world.
OUTSIDE, GATEWAY = "198.51.100.2", "198.51.100.1"
ANSWER = ("import socket; s = socket.create_server(('', 7)); print('up', flush=True);"
          "c, (who, _) = s.accept(); c.sendall(who.encode())")


@pytest.fixture
def outside() -> Iterator[str]:
    """A network namespace that stands for the world behind this machine."""
    name = f"outside-{os.getpid()}"
    link = f"out{os.getpid()}"
    with ExitStack() as undo:
        run("ip", "netns", "add", name)
        undo.callback(run, "ip", "netns", "delete", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "address", "add", f"{GATEWAY}/24", "dev", link)
        run("ip", "link", "set", link, "up")
        run("ip", "-n", name, "address", "add", f"{OUTSIDE}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "route", "add", "default", "via", GATEWAY)
        # What the quick start does for the interfaces of default routes.
        Path(f"/proc/sys/net/ipv4/conf/{link}/forwarding").write_text("1")
        yield name


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def test_guest_reaches_the_world_and_not_the_other_way(guest: Guest, outside: str) -> None:
    world, _, address = guest
    with subprocess.Popen(["ip", "netns", "exec", outside, "python3", "-c", ANSWER],
                          stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == b"up\n"
            seen = world.ssh(
                address, f"timeout 20 bash -c 'exec 3<>/dev/tcp/{OUTSIDE}/7; cat <&3'")
            assert seen == GATEWAY, "the world sees the machine, not the guest"
        finally:
            server.kill()
    knock = f"import socket; socket.create_connection(('{address}', 22), 3)"
    done = subprocess.run(["ip", "netns", "exec", outside, "python3", "-c", knock], check=False,
                          capture_output=True, text=True)
    assert "TimeoutError" in done.stderr, "a stranger came in by the floating IP"
    assert connects(address, 22), "the machine itself does"


@pytest.mark.full
def test_chosen_address(world: World) -> None:
    network = world.api.network.find_network("private")
    server = world.boot("fixed", networks=[{"uuid": network.id, "fixed_ip": "10.66.0.222"}])
    assert server.addresses["private"][0]["addr"] == "10.66.0.222"
    address = world.floating_ip(server)
    assert "10.66.0.222/24" in world.wait_ssh(address, "ip -4 -o address show dev eth0")
