# SPDX-License-Identifier: Apache-2.0
"""Reboot, rebuild, resize, rescue, shelve, pause, suspend, snapshot."""

from __future__ import annotations

import subprocess

import pytest

from nova_lxd.tests.cloud.world import GuestError, World, eventually

# lxcfs or not, the container's init has a start time of its own.
INIT_START = "awk '{print $22}' /proc/1/stat"


def test_reboot_by_the_api(world: World) -> None:
    server, address = world.boot_reachable("reboots")
    for kind in ("SOFT", "HARD"):
        before = world.ssh(address, INIT_START)
        world.api.compute.reboot_server(server, kind)
        eventually(f"the {kind} reboot", 120,
                   lambda before=before: world.wait_ssh(address, INIT_START) != before.strip())
        world.wait_active(server)


def test_reboot_from_inside(world: World) -> None:
    """The guest's own reboot ends its network namespace: its ports must be plugged again."""
    server, address = world.boot_reachable("inside")
    before = world.ssh(address, INIT_START).strip()
    for _ in range(2):
        world.ssh(address, "sudo systemd-run --on-active=1 systemctl reboot")
        eventually("the reboot", 120,
                   lambda before=before: world.wait_ssh(address, INIT_START) != before)
        before = world.ssh(address, INIT_START).strip()
    assert world.api.compute.get_server(server).status == "ACTIVE"


@pytest.mark.full
def test_stop_and_start(world: World) -> None:
    server, address = world.boot_reachable("stops")
    world.write(address, "/etc/kept", "kept")
    world.api.compute.stop_server(server)
    world.wait_status(server, "SHUTOFF")
    with pytest.raises((GuestError, subprocess.TimeoutExpired)):
        world.ssh(address, "true", timeout=10)
    world.api.compute.start_server(server)
    world.wait_active(server)
    assert world.wait_ssh(address, "cat /etc/kept") == "kept"


def test_snapshot_boots(world: World) -> None:
    server, address = world.boot_reachable("original")
    world.write(address, "/etc/carried", "carried over")
    image = world.api.compute.create_server_image(server, "carried", wait=True, timeout=180)
    world.undo.callback(world.api.image.delete_image, image, ignore_missing=True)
    _, other = world.boot_reachable("copy", image="carried")
    assert world.ssh(other, "cat /etc/carried").strip() == "carried over"
    assert world.ssh(other, "hostname").strip() == "copy"


def test_rebuild(world: World) -> None:
    server, address = world.boot_reachable("rebuilt")
    world.write(address, "/etc/old", "old")
    world.api.compute.rebuild_server(server, image=world.image_id("debian"))
    world.wait_status(server, "REBUILD", 30)
    world.wait_active(server)
    assert world.wait_ssh(address, "test -e /etc/old || echo gone") == "gone"


def memory(world: World, address: str) -> int:
    """MiB that the guest sees."""
    return int(world.wait_ssh(address, "awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024


@pytest.mark.parametrize(
    "verdict", [pytest.param("confirm", marks=pytest.mark.full), "revert"])
def test_resize(world: World, verdict: str) -> None:
    server, address = world.boot_reachable(f"resized-{verdict}")
    world.write(address, "/etc/kept", "kept")
    flavor = world.api.compute.find_flavor("c1.medium")
    world.api.compute.resize_server(server, flavor)
    world.wait_status(server, "VERIFY_RESIZE")
    assert 1000 <= memory(world, address) <= 1024
    if verdict == "confirm":
        world.api.compute.confirm_server_resize(server)
    else:
        world.api.compute.revert_server_resize(server)
    world.wait_active(server)
    expected = 1024 if verdict == "confirm" else 512
    assert expected - 24 <= memory(world, address) <= expected
    assert world.ssh(address, "cat /etc/kept").strip() == "kept"


def test_rescue(world: World) -> None:
    server, address = world.boot_reachable("rescued")
    world.write(address, "/etc/broken", "broken")
    world.api.compute.rescue_server(server, image_ref=world.image_id("debian"))
    world.wait_status(server, "RESCUE")
    world.wait_ssh(address, "test ! -e /etc/broken")
    world.api.compute.unrescue_server(server)
    world.wait_active(server)
    assert world.wait_ssh(address, "cat /etc/broken") == "broken"


@pytest.mark.full
def test_shelve(world: World) -> None:
    server, address = world.boot_reachable("shelved")
    world.write(address, "/etc/kept", "kept")
    world.api.compute.shelve_server(server)
    world.wait_status(server, "SHELVED_OFFLOADED", 300)
    world.api.compute.unshelve_server(server)
    world.wait_active(server)
    assert world.wait_ssh(address, "cat /etc/kept") == "kept"


@pytest.mark.parametrize(
    ("verb", "back", "status"),
    [("pause", "unpause", "PAUSED"),
     pytest.param("suspend", "resume", "SUSPENDED", marks=pytest.mark.full)])
def test_pause_and_suspend(world: World, verb: str, back: str, status: str) -> None:
    """The guest stands still meanwhile, and goes on with the same processes."""
    server, address = world.boot_reachable(verb)
    before = world.ssh(address, INIT_START)
    getattr(world.api.compute, f"{verb}_server")(server)
    world.wait_status(server, status)
    with pytest.raises((GuestError, subprocess.TimeoutExpired)):
        world.ssh(address, "true", timeout=8)
    getattr(world.api.compute, f"{back}_server")(server)
    world.wait_active(server)
    assert world.wait_ssh(address, INIT_START) == before.strip()


def test_password(world: World) -> None:
    server, address = world.boot_reachable("password")
    before = world.ssh(address, "sudo getent shadow debian")
    world.api.compute.change_server_password(server, "correct horse battery")
    eventually("the new password", 30,
               lambda: world.ssh(address, "sudo getent shadow debian") != before)
    verify = ("import crypt, spwd, sys; h = spwd.getspnam('debian').sp_pwdp;"
              "sys.exit(crypt.crypt('correct horse battery', h) != h)")
    world.ssh(address, f'sudo python3 -W ignore -c "{verify}"')
