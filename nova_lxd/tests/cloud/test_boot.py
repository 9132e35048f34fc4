# SPDX-License-Identifier: Apache-2.0
"""A server comes up as its owner asked."""

from __future__ import annotations

import json

from nova_lxd.tests.cloud.world import Guest, World, eventually

USER_DATA = """#cloud-config
write_files:
  - path: /etc/from-user-data
    content: told by nova
"""


def datasource(world: World, address: str) -> str:
    world.wait_ssh(address, "cloud-init status --wait")
    result = json.loads(world.ssh(address, "cat /run/cloud-init/result.json"))
    return str(result["v1"]["datasource"])


def test_user_data_by_the_metadata_service(world: World) -> None:
    server, address = world.boot_reachable("by-metadata", user_data=USER_DATA)
    assert "DataSourceOpenStack" in datasource(world, address)
    assert world.ssh(address, "cat /etc/from-user-data").strip() == "told by nova"
    assert world.ssh(address, "hostname").strip() == "by-metadata"
    assert server.id in world.ssh(
        address, "curl -sf http://169.254.169.254/openstack/latest/meta_data.json"
        " || python3 -c 'import urllib.request as u;"
        'print(u.urlopen("http://169.254.169.254/openstack/latest/meta_data.json").read())\'')


def test_user_data_by_config_drive(world: World) -> None:
    _, address = world.boot_reachable("by-drive", user_data=USER_DATA, config_drive=True)
    assert "DataSourceConfigDrive" in datasource(world, address)
    assert world.ssh(address, "cat /etc/from-user-data").strip() == "told by nova"


def test_flavor_is_the_limit_that_the_guest_sees(guest: Guest) -> None:
    world, _, address = guest  # of flavor c1.small
    memory = int(world.ssh(address, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
    assert 500 * 1024 <= memory <= 512 * 1024
    assert world.ssh(address, "nproc").strip() == "1"


def test_console_log_shows_the_boot(guest: Guest) -> None:
    world, server, _ = guest
    log = eventually("the login prompt in the log", 60, lambda: next(
        (log for log in [world.console(server)] if f"{server.name} login:" in log), ""))
    assert "Cloud-init" in log or "cloud-init" in log
    assert log.isascii()  # systemd's ellipses are spelt, not three replacement signs each
