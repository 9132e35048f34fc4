# SPDX-License-Identifier: Apache-2.0
"""The host, its consoles and the event stream, on a live server."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any

import pytest
from nova import exception as nova_exception
from nova import monkey_patch
from nova.compute import power_state, provider_tree

from nova_lxd.tests.functional.virt import guests, world
from nova_lxd.virt import exception, guest
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.host import Host

pytestmark = pytest.mark.timeout(180)


def test_concurrency_backend_is_the_one_asked_for() -> None:
    green = os.environ.get("OS_NOVA_DISABLE_EVENTLET_PATCHING", "true").lower() == "false"
    assert monkey_patch.is_patched() == green
    assert threading.get_ident.__module__ == ("eventlet.green.thread" if green else "_thread")


def test_inventory_and_traits(driver: Any) -> None:
    tree = provider_tree.ProviderTree()
    name = driver.get_available_nodes()[0]
    tree.new_root(name, "4c8bd2a6-6f3e-4b5e-9d1c-3b6d2f0b6a11")
    driver.update_provider_tree(tree, name)
    inventory = tree.data(name).inventory
    assert inventory["VCPU"]["total"] == len(driver.host.cpus())
    assert inventory["MEMORY_MB"]["total"] > 256
    assert inventory["DISK_GB"]["total"] >= 1
    assert "CUSTOM_LXD" in tree.data(name).traits
    resources = driver.get_available_resource(name)
    assert resources["hypervisor_type"] == "lxd"
    assert resources["hypervisor_version"] > 4_000_000
    assert "load average" in driver.get_host_uptime()
    assert driver.get_host_cpu_stats()["user"] > 0


def test_missing_pool_says_what_to_do(driver: Any, conf: Any) -> None:
    conf.set_override("pool", "nowhere", "lxd")
    try:
        with pytest.raises(exception.HostNotUsable, match="lxc storage create nowhere"):
            Host(driver.client, "x").check()
    finally:
        conf.clear_override("pool", "lxd")


def test_dead_endpoint_is_one_clear_error(conf: Any, tmp_path: Any) -> None:
    conf.set_override("endpoint", str(tmp_path / "unix.socket"), "lxd")
    try:
        with pytest.raises(nova_exception.HypervisorUnavailable, match="does not answer"):
            LXDClient(conf.lxd, "default").get("instances")
    finally:
        conf.clear_override("endpoint", "lxd")


def test_serial_console_both_ways(driver: Any, context: Any, server: Any) -> None:
    guests.wait_for(
        lambda: "busybox guest is up" in driver.get_console_output(context, server), "boot"
    )
    console = driver.get_serial_console(context, server)
    assert driver.get_serial_console(context, server).port == console.port
    with socket.create_connection((console.host, console.port), timeout=1) as visitor:
        seen = b""

        def answered() -> bool:
            """Type as a person would: again, when a shell that just starts has dropped it."""
            nonlocal seen
            visitor.sendall(b"echo $((6 * 7))-answer\n")
            with contextlib.suppress(TimeoutError):
                while b"42-answer" not in seen:
                    data = visitor.recv(4096)
                    assert data, f"the console was closed after {seen!r}"
                    seen += data
            return b"42-answer" in seen

        guests.wait_for(answered, "an answer on the console")
    driver.consoles.close(guest.name(server))
    with pytest.raises(OSError):
        socket.create_connection((console.host, console.port), timeout=5)


def test_broken_stream_is_made_good(driver: Any, server: Any) -> None:
    """What happens while no stream stands is noticed when it is back."""
    driver.events_seen.clear()
    driver.service_states.clear()
    # a client's view of a dead connection
    driver.watcher._stream.sock.shutdown(socket.SHUT_RDWR)
    guests.wait_for(lambda: (False) in [up for up, _ in driver.service_states], "noticed")
    driver.client.put(
        "instances", guest.name(server), "state", json={"action": "stop", "force": True}
    )
    assert driver.get_info(server).state == power_state.SHUTDOWN, "read past the old cache"
    guests.wait_for(lambda: True in [up for up, _ in driver.service_states], "back again")
    guests.wait_for(
        lambda: "Stopped" in [event.get_name() for event in driver.events_seen], "told"
    )


def test_state_of_many_costs_no_request(
    driver: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a request was made")

    monkeypatch.setattr(driver.client, "get", refuse)
    for _ in range(100):
        assert driver.get_info(server, use_cache=False).state == power_state.RUNNING
    assert driver.get_num_instances() == 1


def test_others_are_never_touched(driver: Any, server: Any) -> None:
    """Instances outside the project, and unmarked ones within, are not Nova's."""
    image = driver.instances.get(guest.name(server))["config"]["volatile.base_image"]
    driver.instances.create(
        "operators-own", image, {}, {"root": {"type": "disk", "path": "/", "pool": "default"}}
    )
    try:
        assert "operators-own" not in driver.list_instances()
        assert driver.get_num_instances() == 1
    finally:
        driver.instances.delete("operators-own")


def test_ephemeral_disk_is_mounted(driver: Any, context: Any, image: str) -> None:
    specs = {"quota:disk_write_bytes_sec": "10485760"}
    instance = world.instance(image, 9, flavor=world.flavor(extra_specs=specs))
    disks = {"ephemerals": [{"device_name": "/dev/vdb", "size": 1, "guest_format": None}]}
    driver.spawn(
        context, instance, world.image_meta(image), [], None, {}, world.network_info(0), disks
    )
    guests.run(driver, instance, "touch", "/mnt/ephemeral0/mine")
    device = driver.instances.get(guest.name(instance))["devices"]["ephemeral0"]
    assert device["limits.write"] == "10485760B"
    driver.destroy(context, instance, [], disks)
    volumes = driver.client.get("storage-pools", "default", "volumes", "custom", recursion="1")
    assert not [volume for volume in volumes if volume["name"].startswith(guest.name(instance))]


def test_limits_reach_the_server(driver: Any, context: Any, image: str) -> None:
    specs = {
        "lxd:nesting": "true", "lxd:processes": "300", "quota:cpu_quota": "50000",
        "quota:disk_read_iops_sec": "400", "quota:disk_write_bytes_sec": "10485760",
    }  # fmt: skip
    instance = world.instance(image, 10, flavor=world.flavor(extra_specs=specs))
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, world.network_info(0))
    try:
        record = driver.instances.get(guest.name(instance))
        assert record["config"]["security.nesting"] == "true"
        assert record["config"]["limits.cpu.allowance"] == "50ms/100ms"
        assert record["devices"]["root"]["limits.write"] == "10485760B"
    finally:
        driver.destroy(context, instance, [])
