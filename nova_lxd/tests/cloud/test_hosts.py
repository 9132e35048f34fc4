# SPDX-License-Identifier: Apache-2.0
"""Servers on two compute hosts, the second one made by ``quickstart add-host``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud.cli import open_cloud
from openstack import exceptions

from nova_lxd.tests.cloud import audit
from nova_lxd.tests.cloud.test_console import read_until, serial_console
from nova_lxd.tests.cloud.world import Guest, World, eventually

Pair = tuple[World, list[Guest], dict[str, str]]
"""A user, two servers on different hosts, and the scheduler hints that keep them apart."""


@pytest.fixture(scope="module")
def names(state: Path) -> list[str]:
    """The names of the hosts."""
    found = [host.name for host in open_cloud(state).settings.hosts]
    if len(found) < 2:
        pytest.skip("the cloud has one compute host: quickstart add-host NAME adds another")
    return found


def apart(world: World, policy: str = "anti-affinity") -> dict[str, str]:
    """Scheduler hints that keep servers on different hosts, or together."""
    compute = world.api.compute
    group = compute.create_server_group(name=policy, policies=[policy])
    world.undo.callback(compute.delete_server_group, group)
    return {"group": group.id}


def host_of(admin: World, server_id: str) -> str:
    return str(admin.api.compute.get_server(server_id).compute_host)


@pytest.fixture(scope="module")
def pair(state: Path, names: list[str]) -> Iterator[Pair]:
    """Two reachable servers, which the scheduler may not put on one host."""
    world = World(state)
    try:
        hints = apart(world)
        servers = [world.create(f"apart-{n}", scheduler_hints=hints) for n in range(2)]
        addresses = [world.floating_ip(world.wait_active(server)) for server in servers]
        for address in addresses:
            world.wait_ssh(address)
        yield world, [(world, world.api.compute.get_server(server), address)
                      for server, address in zip(servers, addresses, strict=True)], hints
    finally:
        world.close()


def test_hosts_are_up(admin: World, names: list[str]) -> None:
    services = list(admin.api.compute.services(binary="nova-compute"))
    assert {each.host for each in services if each.state == "up"} == set(names)
    agents = list(admin.api.network.agents(binary="ovn-controller"))
    assert {each.host for each in agents if each.is_alive} == set(names)


def test_scheduler_keeps_servers_apart(pair: Pair, admin: World, names: list[str]) -> None:
    _, guests, _ = pair
    assert {host_of(admin, server.id) for _, server, _ in guests} == set(names)


def test_no_host_is_left_for_a_third(pair: Pair) -> None:
    world, _, hints = pair
    third = world.create("third", image="busybox", flavor="c1.tiny", scheduler_hints=hints)
    with pytest.raises(exceptions.ResourceFailure):
        world.wait_status(third, "ACTIVE")
    fault = world.api.compute.get_server(third).fault
    assert "No valid host" in fault["message"]


def test_guests_reach_each_other_through_the_tunnel(pair: Pair) -> None:
    world, ((_, _, address), (_, other, _)), _ = pair
    inner = other.addresses["private"][0]["addr"]
    world.wait_ssh(address, f"ping -c1 -W2 {inner}")
    # A full packet is not fragmented: the network's MTU leaves room for the tunnel's header.
    mtu = int(world.ssh(address, "cat /sys/class/net/eth0/mtu"))
    world.ssh(address, f"ping -c1 -W2 -M do -s {mtu - 28} {inner}")
    banner = world.ssh(address, f"timeout 5 bash -c 'exec 3<>/dev/tcp/{inner}/22; head -c 7 <&3'")
    assert banner == "SSH-2.0"


def test_large_transfer_to_each_host(pair: Pair) -> None:
    """Floating IPs are on the first host: one of the two transfers goes through the tunnel."""
    world, guests, _ = pair
    size = 16 << 20
    for _, _, address in guests:
        assert len(world.ssh(address, f"head -c {size} /dev/zero", timeout=60)) == size


def test_consoles_of_both_hosts(pair: Pair) -> None:
    world, guests, _ = pair
    for _, server, _ in guests:
        eventually("the end of the boot", 60, lambda s=server: "login:" in world.console(s))
        with serial_console(world, server) as stream:
            stream.send_binary(b"\r")
            read_until(stream, f"{server.name} login:", 30)


@pytest.mark.parametrize("policy", ["affinity", "soft-anti-affinity"])
def test_groups_with_other_policies(
    world: World, admin: World, names: list[str], policy: str
) -> None:
    world.api.compute.default_microversion = "2.15"  # the first that knows soft policies
    hints = apart(world, policy)
    servers = []
    for number in range(3):
        servers.append(world.boot(f"grouped-{number}", image="busybox", flavor="c1.tiny",
                                  scheduler_hints=hints))
    hosts = {host_of(admin, server.id) for server in servers}
    assert len(hosts) == (1 if policy == "affinity" else 2)


def test_admin_chooses_the_host_and_nothing_stays_there(
    admin: World, state: Path, names: list[str]
) -> None:
    before = audit.inventory(state)
    admin.api.compute.default_microversion = "2.74"
    servers = []
    for name in names:
        server = admin.api.compute.create_server(
            name=f"on-{name}", host=name, image_id=admin.image_id("busybox"),
            flavor_id=admin.api.compute.find_flavor("c1.tiny").id, networks="none")
        admin.undo.callback(admin.delete, server)
        servers.append(admin.wait_active(server))
        assert host_of(admin, server.id) == name
    for server in servers:
        admin.delete(server)
    eventually("the removal of everything", 60,
               lambda: not audit.difference(before, audit.inventory(state)))
