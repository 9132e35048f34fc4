# SPDX-License-Identifier: Apache-2.0
"""Verbs that fail half-way: whichever of their requests LXD refuses, nothing is left behind."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from nova import exception as nova_exception
from nova.compute import power_state

from nova_lxd.tests.functional.virt import world
from nova_lxd.virt import client, exception, guest, vifs

pytestmark = pytest.mark.timeout(400)

PATIENCE = 40  # requests that no verb here needs



@contextlib.contextmanager
def refusing(driver: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[str]]:
    """Let LXD refuse the ``number``-th changing request, and carry out the others."""
    seen: list[str] = []
    original = client.LXDClient._change

    def change(self: Any, verb: str, path: tuple[str, ...], *args: Any) -> Any:
        seen.append(f"{verb} {'/'.join(path)}")
        if len(seen) == number:
            raise exception.LXDError(500, action=seen[-1], reason="the test says no")
        return original(self, verb, path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(client.LXDClient, "_change", change)
        yield seen


def left_behind(driver: Any, instance: Any, ports: Any) -> list[str]:
    """Return what is still there of an instance."""
    name = guest.name(instance)
    found = [
        record["name"]
        for record in driver.client.get("instances", recursion="1")
        if record["name"].startswith(name)
    ]
    volumes = driver.client.get("storage-pools", "default", "volumes", "custom", recursion="1")
    found += [volume["name"] for volume in volumes if volume["name"].startswith(name)]
    found += [vifs.outer_name(vif) for vif in ports if vifs.outer_exists(vif)]
    drive = driver.lifecycle._drives.path(instance)
    return found + ([drive] if pathlib.Path(drive).exists() else [])


def test_spawn_undoes_everything_at_every_step(
    driver: Any, context: Any, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.images.ensure(context, image)  # its own failures are the image tests' matter
    monkeypatch.setattr("nova_lxd.virt.instances.START_ATTEMPTS", 1)
    disks = {"ephemerals": [{"device_name": "/dev/vdb", "size": 1, "guest_format": None}]}
    files = [("/etc/hello", b"personality")]
    for number in range(1, PATIENCE):
        instance = world.instance(image, 200 + number, config_drive="True")
        ports = world.network_info(1)
        with refusing(driver, monkeypatch, number) as seen:
            try:
                driver.spawn(
                    context, instance, world.image_meta(image), files, None, {}, ports, disks
                )
            except exception.LXDError as e:
                assert "the test says no" in str(e), "another failure hides the reason"
            else:
                break
        assert left_behind(driver, instance, ports) == [], f"after refusing {seen[number - 1]}"
    driver.destroy(context, instance, ports, disks)
    assert left_behind(driver, instance, ports) == []
    assert number > 5, f"only {number} steps were refused: {seen}"


def test_rescue_goes_back_at_every_step(
    driver: Any, context: Any, server: Any, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nova_lxd.virt.instances.START_ATTEMPTS", 1)
    driver.power_off(server)
    identity = driver.instances.get(guest.name(server))["config"]["volatile.uuid"]
    for number in range(1, PATIENCE):
        with refusing(driver, monkeypatch, number) as seen:
            try:
                driver.rescue(
                    context, server, server.ports, world.image_meta(image), "", None, None
                )
            except exception.LXDError as e:
                assert "the test says no" in str(e)
            else:
                break
        names = left_behind(driver, server, [])
        assert names == [guest.name(server)], f"after refusing {seen[number - 1]}"
        assert driver.get_info(server).state == power_state.SHUTDOWN
        config = driver.instances.get(guest.name(server))["config"]
        assert config["volatile.uuid"] == identity, "another container has its name"
    driver.unrescue(context, server)
    assert number > 4, f"only {number} steps were refused: {seen}"


def test_resize_goes_back_at_every_step(
    driver: Any, context: Any, server: Any, conf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = world.flavor(id=2, name="big", memory_mb=256, root_gb=2)
    before = driver.instances.get(guest.name(server))
    for number in range(1, PATIENCE):
        with refusing(driver, monkeypatch, number) as seen:
            try:
                driver.migrate_disk_and_power_off(context, server, conf.my_ip, big, server.ports)
            except nova_exception.InstanceFaultRollback as e:
                assert "the test says no" in str(e.inner_exception)
            else:
                break
        after = driver.instances.get(guest.name(server))
        for part in ("config", "devices"):
            assert after[part] == before[part], f"after refusing {seen[number - 1]}"
    assert number > 1


def test_snapshot_leaves_nothing_at_every_step(
    driver: Any, context: Any, server: Any, glance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images() -> set[str]:
        return {found["fingerprint"] for found in driver.client.get("images", recursion="1")}

    before = images()
    for number in range(1, 3):  # what follows is the tidying up itself
        glance.put("snap", b"")
        with refusing(driver, monkeypatch, number) as seen, pytest.raises(exception.LXDError):
            driver.snapshot(context, server, "snap", lambda **kw: None)
        name = guest.name(server)
        assert not driver.client.get("instances", name, "snapshots"), seen
        assert images() == before, seen
        assert not list(driver.snapshots._under_way.iterdir())


def test_snapshot_of_a_killed_compute_goes_at_its_next_start(
    driver: Any, context: Any, server: Any, glance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing that cleans up survives this."""

    before = {found["fingerprint"] for found in driver.client.get("images", recursion="1")}
    name = guest.name(server)
    glance.put("snap", b"")
    with monkeypatch.context() as patch:
        patch.setattr(client.LXDClient, "delete", lambda *args, **kwargs: None)
        patch.setattr(pathlib.Path, "unlink", lambda *args, **kwargs: None)

        def die(**kwargs: Any) -> None:
            if kwargs["task_state"] == "image_uploading":
                raise Killed

        with pytest.raises(Killed):
            driver.snapshot(context, server, "snap", die)
    assert len(driver.client.get("instances", name, "snapshots")) == 1
    driver.snapshots.remove_leftovers()
    assert not driver.client.get("instances", name, "snapshots")
    after = {found["fingerprint"] for found in driver.client.get("images", recursion="1")}
    assert after == before
    driver.snapshots.remove_leftovers()  # nothing is left to remove
