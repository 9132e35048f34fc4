# SPDX-License-Identifier: Apache-2.0
"""What cloud-init is told."""

from __future__ import annotations

import base64
import json

import nova.conf
import pytest
import yaml

from nova_lxd.tests.functional.virt import world
from nova_lxd.virt import metadata


def test_keys_of_the_lxd_templates() -> None:
    user_data = base64.b64encode(b"#cloud-config\n").decode()
    instance = world.instance("i", hostname="web: 1", user_data=user_data)
    keys = metadata.cloud_init_keys(instance, world.network_info(1))
    described = yaml.safe_load(keys["user.meta-data"])
    assert described == {"local-hostname": "web: 1", "public-keys": ["ssh-ed25519 AAAA test"]}
    assert keys["user.user-data"] == "#cloud-config\n"
    network = json.loads(keys["user.network-config"])
    assert network["ethernets"]["eth0"]["addresses"] == ["10.77.0.5/24"]
    assert network["ethernets"]["eth0"]["mtu"] == 1442


def test_dhcp_is_left_to_dhcp() -> None:
    ports = world.network_info(1)
    ports[0]["network"]["subnets"][0]["meta"] = {"dhcp_server": "10.77.0.2"}
    entry = metadata.network_config(ports)["ethernets"]["eth0"]
    assert entry["dhcp4"] is True and "addresses" not in entry


def test_network_files_only_where_nova_injects(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = world.network_info(1)
    assert metadata.network_files(ports) == []
    monkeypatch.setattr(nova.conf.CONF, "flat_injected", True, raising=False)
    ports[0]["network"]["meta"]["injected"] = True
    (entry,) = metadata.network_files(ports)
    assert entry[0] == "/etc/network/interfaces"
    assert b"address 10.77.0.5" in entry[1] and b"gateway 10.77.0.1" in entry[1]


def test_root_of_a_container() -> None:
    uid = {"Isuid": True, "Isgid": False, "Hostid": 165536, "Nsid": 0, "Maprange": 65536}
    config = {"volatile.idmap.next": json.dumps([{**uid, "Isuid": False}, uid])}
    assert metadata.container_root(config) == 165536
    assert metadata.container_root({"volatile.idmap.next": "[]"}) == 0
