# SPDX-License-Identifier: Apache-2.0
"""Tags of ports, as the metadata service and the config drive tell them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from nova import objects

from nova_lxd.tests.functional.virt import world
from nova_lxd.virt import driver, exception, tags

MAC, OTHER = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The database's ports of any instance."""
    found: list[Any] = []
    monkeypatch.setattr(
        objects.VirtualInterfaceList, "get_by_instance_uuid", lambda *args: list(found)
    )
    return found


def port(address: str, tag: str | None) -> objects.VirtualInterface:
    return objects.VirtualInterface(address=address, tag=tag)


def test_tagged_ports_only(ports: list[Any]) -> None:
    instance = world.instance("i")
    ports += [port(f"{MAC}/a-port-id", "storage"), port(OTHER, None)]
    found = tags.device_metadata(None, instance)
    assert [(device.mac, device.tags) for device in found.devices] == [(MAC, ["storage"])]
    ports.pop(0)
    assert tags.device_metadata(None, instance) is None


def test_attached_and_detached(ports: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    subject = driver.LXDDriver(mock.Mock())
    subject.watcher, subject.lifecycle = mock.Mock(), mock.Mock()
    instance = world.instance("i")
    monkeypatch.setattr(objects.Instance, "save", mock.Mock())
    (vif,) = world.network_info(1)
    vif["address"] = MAC
    ports += [port(MAC, "storage"), port(OTHER, "backup")]
    subject.attach_interface(None, instance, None, vif)
    assert {device.mac for device in instance.device_metadata.devices} == {MAC, OTHER}
    subject.detach_interface(None, instance, vif)
    assert [device.mac for device in instance.device_metadata.devices] == [OTHER]
    assert instance.save.call_count == 2


def test_failed_detach_keeps_them(ports: list[Any]) -> None:
    from nova import exception as nova_exception

    subject = driver.LXDDriver(mock.Mock())
    subject.watcher, subject.lifecycle = mock.Mock(), mock.Mock()
    subject.lifecycle.detach.side_effect = exception.LXDError(500, action="a", reason="r")
    ports.append(port(MAC, "storage"))
    instance = world.instance("i")
    instance.device_metadata = tags.device_metadata(None, instance)
    (vif,) = world.network_info(1)
    vif["address"] = MAC
    with pytest.raises(nova_exception.InterfaceDetachFailed):
        subject.detach_interface(None, instance, vif)
    assert len(instance.device_metadata.devices) == 1
