# SPDX-License-Identifier: Apache-2.0
"""What flavor, image and request make of a container, on a live server."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from nova import exception as nova_exception
from nova import objects
from nova.compute import power_state

from nova_lxd.tests.functional.virt import guests, world
from nova_lxd.virt import driver as lxd_driver
from nova_lxd.virt import guest

pytestmark = pytest.mark.timeout(180)

LATEST = "/config-drive/openstack/latest/"


@contextlib.contextmanager
def spawned(driver: Any, context: Any, image: str, ports: int = 0, **values: Any) -> Iterator[Any]:
    """Run an instance for a while."""
    instance = world.instance(image, 91, **values)
    network_info = world.network_info(ports)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, network_info)
    instance.ports = network_info
    try:
        yield instance
    finally:
        driver.destroy(context, instance, network_info)


def read(driver: Any, instance: Any, name: str) -> Any:
    return json.loads(guests.run(driver, instance, "cat", LATEST + name))


def test_config_drive_has_all_of_it(
    driver: Any, context: Any, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, hostname, user data, vendor data, network data and the tags of devices."""

    def tagged(context: Any, instance: Any) -> objects.InstanceDeviceMetadata:
        nic = objects.NetworkInterfaceMetadata(mac="fa:16:3e:00:00:01", tags=["storage"])
        return objects.InstanceDeviceMetadata(devices=[nic])

    monkeypatch.setattr(lxd_driver.tags, "device_metadata", tagged)
    user_data = "#cloud-config\nruncmd: [true]\n"
    with spawned(
        driver, context, image, 2, config_drive="True", hostname="web-1",
        user_data=base64.b64encode(user_data.encode()).decode(),
        keypairs=objects.KeyPairList(objects=[
            objects.KeyPair(name="mine", public_key="ssh-ed25519 AAAA me", type="ssh")
        ]), key_name="mine",
    ) as instance:  # fmt: skip
        described = read(driver, instance, "meta_data.json")
        assert described["uuid"] == instance.uuid
        assert described["hostname"].startswith("web-1")
        assert described["public_keys"] == {"mine": "ssh-ed25519 AAAA me"}
        (device,) = described["devices"]
        assert device["tags"] == ["storage"] and device["mac"] == "fa:16:3e:00:00:01"
        network = read(driver, instance, "network_data.json")
        macs = [link["ethernet_mac_address"] for link in network["links"]]
        assert macs == [vif["address"] for vif in instance.ports]
        assert [link["mtu"] for link in network["links"]] == [1442, 1442]
        addresses = [entry["ip_address"] for entry in network["networks"]]
        assert addresses == ["10.77.0.5", "10.77.1.5"]
        assert guests.run(driver, instance, "cat", LATEST + "user_data") == user_data
        assert isinstance(read(driver, instance, "vendor_data.json"), dict)
        keys = driver.instances.get(guest.name(instance))["config"]
        assert keys["user.user-data"] == user_data, "the sources say the same"


def test_several_ports_in_their_order(driver: Any, context: Any, image: str) -> None:
    with spawned(driver, context, image, 3) as instance:
        for index, vif in enumerate(instance.ports):
            shown = guests.run(driver, instance, "ip", "link", "show", f"eth{index}")
            assert vif["address"] in shown and "mtu 1442" in shown


def test_network_file_for_images_without_cloud_init(
    driver: Any, context: Any, image: str, conf: Any
) -> None:
    conf.set_override("flat_injected", True)
    try:
        instance = world.instance(image, 92)
        ports = world.network_info(1)
        ports[0]["network"]["meta"]["injected"] = True
        driver.spawn(context, instance, world.image_meta(image), [], None, {}, ports)
        text = guests.run(driver, instance, "cat", "/etc/network/interfaces")
        driver.destroy(context, instance, ports)
    finally:
        conf.clear_override("flat_injected")
    assert "iface eth0 inet static" in text and "address 10.77.0.5" in text


def cell(**values: Any) -> objects.InstanceNUMATopology:
    defaults = {"id": 0, "memory": 64, "cpuset": {0}, "pcpuset": set(), "pagesize": None,
                "cpu_pinning_raw": None}  # fmt: skip
    return objects.InstanceNUMATopology(
        cells=[objects.InstanceNUMACell(**{**defaults, **values})]
    )


def allowed_cpus(driver: Any, instance: Any) -> str:
    status = guests.run(driver, instance, "grep", "Cpus_allowed_list", "/proc/1/status")
    return status.split()[1]


def test_dedicated_cpu_is_pinned(driver: Any, context: Any, image: str) -> None:
    last = max(driver.host.cpus())
    topology = cell(pcpuset={0}, cpu_pinning_raw={"0": last}, cpu_policy="dedicated")
    with spawned(driver, context, image, numa_topology=topology) as instance:
        assert allowed_cpus(driver, instance) == str(last)


def test_numa_node_and_huge_pages(driver: Any, context: Any, image: str) -> None:
    with spawned(driver, context, image, numa_topology=cell(pagesize=2048)) as instance:
        config = driver.instances.get(guest.name(instance))["config"]
        assert config["limits.hugepages.2MB"] == str(64 << 20)
        here = {cpu for cpu, where in driver.host.cpus().items() if where["node"] == 0}
        assert config["limits.cpu"] == guest._cpu_list(here)


@pytest.mark.parametrize("spec", ["privileged", "nesting"])
@pytest.mark.parametrize("allowed", [True, False])
def test_operator_decides(
    driver: Any, context: Any, image: str, conf: Any, spec: str, allowed: bool
) -> None:
    flavor = world.flavor(extra_specs={f"lxd:{spec}": "true"})
    conf.set_override(f"allow_{spec}", allowed, "lxd")
    try:
        if not allowed:
            refused = pytest.raises(nova_exception.BuildAbortException, match=f"allow_{spec}")
            with refused, spawned(driver, context, image, flavor=flavor):
                pass
            return
        with spawned(driver, context, image, flavor=flavor) as instance:
            keys = driver.instances.get(guest.name(instance))["config"]
            assert keys[f"security.{spec}"] == "true"
            mapped = guests.run(driver, instance, "cat", "/proc/self/uid_map").split()
            assert (mapped[:2] == ["0", "0"]) == (spec == "privileged")
    finally:
        conf.clear_override(f"allow_{spec}", "lxd")


def test_every_instance_has_ids_of_its_own(driver: Any, context: Any, image: str) -> None:
    with spawned(driver, context, image) as one:
        two = world.instance(image, 93)
        driver.spawn(context, two, world.image_meta(image), [], None, {}, [])
        maps = [guests.run(driver, each, "cat", "/proc/self/uid_map") for each in (one, two)]
        driver.destroy(context, two, [])
    (first, second) = (int(text.split()[1]) for text in maps)
    assert abs(first - second) >= 65536


def test_quiesce_freezes_for_a_while(driver: Any, context: Any, server: Any) -> None:
    driver.quiesce(context, server, None)
    assert driver.get_info(server).state == power_state.PAUSED
    driver.unquiesce(context, server, None)
    assert driver.get_info(server).state == power_state.RUNNING
    guests.run(driver, server, "true")


def test_reason_of_the_server_is_in_the_error(
    driver: Any, context: Any, image: str, conf: Any
) -> None:
    """What Nova writes into the fault is LXD's own sentence."""
    flavor = world.flavor(extra_specs={"lxd:processes": "many"})
    with (
        pytest.raises(nova_exception.NovaException, match=r'limits\.processes|"many"'),
        spawned(driver, context, image, flavor=flavor),
    ):
        pass
