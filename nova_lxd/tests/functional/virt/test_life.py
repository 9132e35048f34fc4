# SPDX-License-Identifier: Apache-2.0
"""An instance's life on a live server, verb by verb."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from nova import exception
from nova.compute import power_state, task_states

from nova_lxd.tests.functional.virt import guests, world
from nova_lxd.virt import guest, vifs

pytestmark = pytest.mark.timeout(180)


def state(driver: Any, instance: Any) -> int:
    return driver.get_info(instance).state


def test_spawn_runs_with_limits_and_network(driver: Any, server: Any) -> None:
    assert state(driver, server) == power_state.RUNNING
    assert guest.name(server) in driver.list_instances()
    assert server.uuid in driver.list_instance_uuids()
    record = driver.instances.get(guest.name(server))
    assert record["config"]["limits.memory"] == "128MiB"
    assert record["config"]["security.idmap.isolated"] == "true"
    link = guests.run(driver, server, "ip", "link", "show", "eth0")
    assert server.ports[0]["address"] in link and "mtu 1442" in link
    assert vifs.outer_exists(server.ports[0])
    waited = [("network-vif-plugged", server.ports[0]["id"])]
    assert driver.virtapi.waited[-1:] == waited


def test_destroy_leaves_nothing(driver: Any, context: Any, image: str) -> None:
    instance = world.instance(image, 2, config_drive="True")
    ports = world.network_info(2)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, ports)
    driver.destroy(context, instance, ports)
    with pytest.raises(exception.InstanceNotFound):
        driver.get_info(instance)
    assert not any(vifs.outer_exists(vif) for vif in ports)
    assert not pathlib.Path(driver.lifecycle._drives.path(instance)).exists()
    driver.destroy(context, instance, ports)  # once more is no error


def test_failed_spawn_leaves_nothing(driver: Any, context: Any, image: str) -> None:
    instance = world.instance(image, 3, config_drive="True")
    ports = world.network_info(1) + world.network_info(1, vif_type="binding_failed")
    with pytest.raises(exception.VirtualInterfacePlugException, match="binding_failed"):
        driver.spawn(context, instance, world.image_meta(image), [], None, {}, ports)
    assert not driver.instance_exists(instance)
    assert not vifs.outer_exists(ports[0])
    assert not pathlib.Path(driver.lifecycle._drives.path(instance)).exists()


def test_missing_plug_event_is_fatal(driver: Any, context: Any, image: str) -> None:
    instance = world.instance(image, 4)
    ports = world.network_info(1)
    driver.virtapi.missing = True
    try:
        with pytest.raises(exception.VirtualInterfaceCreateException):
            driver.spawn(context, instance, world.image_meta(image), [], None, {}, ports)
    finally:
        driver.virtapi.missing = False
    assert not driver.instance_exists(instance)
    assert not vifs.outer_exists(ports[0])


def test_spawn_stopped_with_files_and_config_drive(driver: Any, context: Any, image: str) -> None:
    instance = world.instance(image, 5, config_drive="True")
    files = [("/etc/deep/er/hello", b"personality")]
    ports = world.network_info(1)
    driver.spawn(
        context, instance, world.image_meta(image), files, "secret", {}, ports, power_on=False
    )
    try:
        assert state(driver, instance) == power_state.SHUTDOWN
        driver.power_on(context, instance, ports)
        assert guests.run(driver, instance, "cat", "/etc/deep/er/hello") == "personality"
        data = guests.run(driver, instance, "cat", "/config-drive/openstack/latest/meta_data.json")
        assert instance.uuid in data and "secret" in data
        owner = guests.run(
            driver,
            instance,
            "stat",
            "-c",
            "%u %a",
            "/config-drive/openstack/latest/meta_data.json",
        )
        assert owner.split() == ["0", "400"]
        with pytest.raises(AssertionError, match="Read-only"):
            guests.run(driver, instance, "touch", "/config-drive/openstack/x")
    finally:
        driver.destroy(context, instance, ports)


def test_power_pause_and_reboot(driver: Any, context: Any, server: Any) -> None:
    driver.pause(server)
    assert state(driver, server) == power_state.PAUSED
    driver.unpause(server)
    assert state(driver, server) == power_state.RUNNING
    driver.suspend(context, server)
    driver.resume(context, server, server.ports)
    assert state(driver, server) == power_state.RUNNING
    guests.run(driver, server, "touch", "/run-mark")
    driver.power_off(server, timeout=10)
    assert state(driver, server) == power_state.SHUTDOWN
    driver.power_on(context, server, server.ports)
    assert "mtu 1442" in guests.run(driver, server, "ip", "link", "show", "eth0")
    for kind in ("SOFT", "HARD"):
        before = driver.instances.state(guest.name(server))["pid"]
        driver.reboot(context, server, server.ports, kind)
        assert driver.instances.state(guest.name(server))["pid"] != before
        guests.run(driver, server, "ip", "link", "show", "eth0")


def test_guest_stops_by_itself(driver: Any, server: Any) -> None:
    driver.events_seen.clear()
    guests.wait_for(lambda: "up" in driver.get_console_output(None, server), "console log")
    driver.consoles.run(guest.name(server), ["poweroff"], b"")
    guests.wait_for(lambda: state(driver, server) == power_state.SHUTDOWN, "shutdown")
    guests.wait_for(
        lambda: "Stopped" in [event.get_name() for event in driver.events_seen], "event"
    )


def test_guest_reboots_by_itself(driver: Any, server: Any) -> None:
    name = guest.name(server)
    before = driver.instances.state(name)["pid"]
    driver.consoles.run(name, ["reboot"], b"")

    def restarted() -> bool:
        return driver.instances.state(name)["pid"] not in (before, 0, -1)

    guests.wait_for(restarted, "restart")
    guests.wait_for(lambda: state(driver, server) == power_state.RUNNING, "running again")
    assert server.ports[0]["address"] in guests.run(driver, server, "ip", "link", "show", "eth0")


def _check_password_of_the_image_user(driver: Any, server: Any) -> None:
    """It waits for cloud-init, which makes the user and locks a password set before."""
    server.system_metadata["image_os_admin_user"] = "cloud"
    with pytest.raises(exception.InstancePasswordSetFailed):
        driver.set_admin_password(server, "pass word")  # nobody of that name yet
    slow = (
        "#!/bin/sh\nsleep 2\necho cloud:x:1000:1000::/:/bin/sh >> /etc/passwd\n"
        "echo 'cloud:!:1::::::' >> /etc/shadow\n"
    )
    guests.run(driver, server, "sh", "-c", f'echo "{slow}" > /usr/bin/cloud-init')
    guests.run(driver, server, "chmod", "+x", "/usr/bin/cloud-init")
    driver.set_admin_password(server, "pass word")
    assert b"\ncloud:$" in guests.read(driver, server, "/etc/shadow")


def test_console_password_and_diagnostics(driver: Any, context: Any, server: Any) -> None:
    guests.wait_for(
        lambda: "busybox guest is up" in driver.get_console_output(context, server), "console"
    )
    guests.run(driver, server, "sh", "-c", r"printf 'Rem\342\200\246ine\n' > /dev/console")
    guests.wait_for(
        lambda: "Rem...ine" in driver.get_console_output(context, server), "spelt ellipsis"
    )
    driver.set_admin_password(server, "pass word")
    assert guests.read(driver, server, "/etc/shadow").startswith(b"root:$")
    _check_password_of_the_image_user(driver, server)
    guests.run(driver, server, "rm", "/usr/bin/chpasswd")
    with pytest.raises(exception.SetAdminPasswdNotSupported):
        driver.set_admin_password(server, "pass word")
    assert driver.get_diagnostics(server)["memory"] > 0
    shown = driver.get_instance_diagnostics(server)
    assert shown.state == "running"
    assert [nic.mac_address for nic in shown.nic_details] == [server.ports[0]["address"]]


def test_interfaces_attach_and_detach_live(
    driver: Any, context: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_tag", lambda *args: None)  # needs Nova's database
    (vif,) = world.network_info(1)
    driver.attach_interface(context, server, None, vif)
    assert vif["address"] in guests.run(driver, server, "ip", "link", "show", "eth1")
    driver.detach_interface(context, server, vif)
    with pytest.raises(AssertionError):
        guests.run(driver, server, "ip", "link", "show", "eth1")
    assert not vifs.outer_exists(vif)


def test_resize_live_and_revert(driver: Any, context: Any, server: Any, conf: Any) -> None:
    name = guest.name(server)
    pid = driver.instances.state(name)["pid"]
    small, big = server.flavor, world.flavor(id=2, name="big", memory_mb=256, root_gb=2)
    driver.migrate_disk_and_power_off(context, server, conf.my_ip, big, server.ports)
    server.flavor = big
    driver.finish_migration(context, None, server, "", server.ports, None, True, {})
    record = driver.instances.get(name)
    assert record["config"]["limits.memory"] == "256MiB"
    assert record["devices"]["root"]["size"] == "2GiB"
    assert driver.instances.state(name)["pid"] == pid, "resized live"
    server.task_state = task_states.RESIZE_REVERTING
    driver.destroy(context, server, server.ports)
    server.flavor, server.task_state = small, None
    driver.finish_revert_migration(context, server, server.ports, None)
    record = driver.instances.get(name)
    assert record["config"]["limits.memory"] == "128MiB"
    assert "user.nova.resize" not in record["config"]
    shrunk = world.flavor(id=3, name="shrunk", root_gb=0)
    shrunk.root_gb = 1
    server.flavor = big
    with pytest.raises(exception.InstanceFaultRollback, match="cannot shrink"):
        driver.migrate_disk_and_power_off(context, server, conf.my_ip, shrunk, server.ports)
    server.flavor = small


def test_snapshot_boots_again(driver: Any, context: Any, server: Any, glance: Any) -> None:
    guests.run(driver, server, "touch", "/kept")
    glance.put("snap", b"")
    steps: list[str] = []
    driver.snapshot(context, server, "snap", lambda task_state, **kw: steps.append(task_state))
    assert steps == [task_states.IMAGE_PENDING_UPLOAD, task_states.IMAGE_UPLOADING]
    assert state(driver, server) == power_state.RUNNING
    assert not driver.client.get("instances", guest.name(server), "snapshots")
    again = world.instance("snap", 7)
    driver.spawn(context, again, world.image_meta("snap"), [], None, {}, world.network_info(0))
    try:
        guests.run(driver, again, "ls", "/kept")
    finally:
        driver.destroy(context, again, [])


def test_rescue_sees_the_old_root(driver: Any, context: Any, server: Any, image: str) -> None:
    guests.run(driver, server, "touch", "/broken")
    driver.power_off(server)
    driver.rescue(context, server, server.ports, world.image_meta(image), "rescue", None, None)
    try:
        assert guests.run(driver, server, "stat", "-c", "%u", "/mnt/broken").strip() == "0"
        guests.run(driver, server, "touch", "/mnt/mended")
        assert server.ports[0]["address"] in guests.run(driver, server, "ip", "link")
    finally:
        driver.unrescue(context, server)
    guests.run(driver, server, "ls", "/broken", "/mended")
    assert state(driver, server) == power_state.RUNNING
    assert driver.list_instances().count(guest.name(server)) == 1


def test_destroy_while_rescued(driver: Any, context: Any, image: str) -> None:
    instance = world.instance(image, 8)
    ports = world.network_info(1)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, ports)
    driver.power_off(instance)
    driver.rescue(context, instance, ports, world.image_meta(image), "x", None, None)
    driver.destroy(context, instance, ports)
    names = [record["name"] for record in driver.client.get("instances", recursion="1")]
    assert not [name for name in names if name.startswith(guest.name(instance))]
