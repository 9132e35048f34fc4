# SPDX-License-Identifier: Apache-2.0
"""Ports, subnets, passwords, and the file that keeps them."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest
from cloud import cli, ini, settings
from cloud.errors import CloudError
from cloud.layout import Layout, write_private
from cloud.settings import Settings


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "state")
    layout.make()
    return layout


def test_a_port_in_use_is_replaced_and_told() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        busy = listener.getsockname()[1]
        assert not settings.port_is_free(busy)
        assert settings.first_free_port(busy) != busy


def test_a_free_port_is_kept() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert settings.first_free_port(free) == free
    assert settings.first_free_port(free, taken={free}) != free


def test_subnet_avoids_the_routes_of_the_machine() -> None:
    used = [ipaddress.IPv4Network("172.24.0.0/16")]
    assert settings.free_subnet(["172.24.4.0/24", "10.1.2.0/24"], used) == "10.1.2.0/24"
    with pytest.raises(CloudError, match="every subnet"):
        settings.free_subnet(["172.24.4.0/24"], used)


def test_routes_are_read_from_the_kernels_table(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0004A8C0\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\t0\t0\n")
    assert settings.host_routes(table) == [ipaddress.IPv4Network("192.168.4.0/22")]


def test_settings_survive_and_are_private(layout: Layout) -> None:
    first = Settings(driver="fake")
    first.complete("host-a")
    first.save(layout)
    assert layout.settings.stat().st_mode & 0o777 == 0o600
    second = Settings.load(layout)
    assert second == first
    assert second is not None and second.complete("host-a") == []
    assert len(set(first.passwords.values())) == len(settings.PASSWORDS)
    assert len(set(first.ports.values())) == len(settings.DEFAULT_PORTS)


def test_damaged_settings_are_told(layout: Layout) -> None:
    layout.settings.write_text("{")
    with pytest.raises(CloudError, match="does not hold settings"):
        Settings.load(layout)
    assert Settings.load(Layout(layout.state / "other")) is None


def test_write_private_tells_a_change_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_private(path, "one") is True
    assert write_private(path, "one") is False
    assert write_private(path, "two", mode=0o644) is True
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_configuration_files_quote_what_oslo_would_expand() -> None:
    text = ini.render({"DEFAULT": {"on": True, "word": "a$b", "empty": ""}})
    assert "\non = true\n" in text
    assert "\nword = a$$b\n" in text
    assert "\nempty =\n" in text
    with pytest.raises(ValueError, match="line break"):
        ini.render({"DEFAULT": {"word": "a\nb"}})


def test_a_verb_that_finds_no_cloud_makes_no_directory(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(CloudError, match="no cloud"), cli.exclusive(missing):
        pytest.fail("there is nothing to be exclusive about")
    assert not missing.exists()
