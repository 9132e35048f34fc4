# SPDX-License-Identifier: Apache-2.0
"""Profiles: their life, their order, and how their changes reach running guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon


@pytest.fixture
def profile(daemon: Daemon) -> Iterator[str]:
    """A profile that is deleted at the end; declare it before ``launch``."""
    daemon.lxc("profile", "create", "p1")
    yield "p1"
    if daemon.api("GET", "/1.0/profiles/p1").status == 200:
        daemon.lxc("profile", "delete", "p1")


def test_create_edit_rename_delete(daemon: Daemon) -> None:
    daemon.lxc("profile", "create", "life")
    assert "already exists" in daemon.refused("profile", "create", "life")
    daemon.lxc("profile", "set", "life", "user.a=1")
    assert daemon.lxc("profile", "get", "life", "user.a").stdout == "1\n"
    daemon.lxc(
        "profile", "edit", "life", input="description: D\nconfig: {user.b: '2'}\ndevices: {}\n"
    )
    assert daemon.get("/1.0/profiles/life") == {
        "name": "life",
        "description": "D",
        "config": {"user.b": "2"},
        "devices": {},
        "used_by": [],
    }
    daemon.lxc("profile", "copy", "life", "twin")
    assert daemon.get("/1.0/profiles/twin")["config"] == {"user.b": "2"}
    daemon.lxc("profile", "rename", "twin", "other")
    daemon.lxc("profile", "delete", "other")
    daemon.lxc("profile", "delete", "life")
    assert daemon.get("/1.0/profiles") == ["/1.0/profiles/default"]


def test_unset_keys_are_gone(daemon: Daemon, profile: str) -> None:
    daemon.lxc("profile", "set", profile, "user.a=1", "user.b=2")
    daemon.lxc("profile", "unset", profile, "user.a")
    daemon.lxc("profile", "device", "add", profile, "d", "disk", "source=/tmp", "path=/mnt")
    daemon.lxc("profile", "device", "set", profile, "d", "readonly=true")
    daemon.lxc("profile", "device", "unset", profile, "d", "readonly")
    shown = daemon.get(f"/1.0/profiles/{profile}")
    assert "user.a" not in shown["config"] and shown["config"]["user.b"] == "2"
    assert shown["devices"]["d"] == {"type": "disk", "source": "/tmp", "path": "/mnt"}


def test_default_cannot_go_or_be_renamed(daemon: Daemon) -> None:
    assert daemon.refused("profile", "delete", "default")
    assert daemon.refused("profile", "rename", "default", "x")


def test_later_profiles_win_and_the_instance_wins_over_all(
    daemon: Daemon, profile: str, launch: Launch
) -> None:
    daemon.lxc("profile", "create", "p2")
    try:
        daemon.lxc("profile", "set", "p1", "user.a=1", "user.b=1", "user.c=1")
        daemon.lxc("profile", "set", "p2", "user.b=2", "user.c=2")
        name = launch("-p", "default", "-p", "p1", "-p", "p2", "-c", "user.c=3", start=False)
        expanded = daemon.instance(name)["expanded_config"]
        assert [expanded[f"user.{key}"] for key in "abc"] == ["1", "2", "3"]
        daemon.lxc("profile", "assign", name, "default,p2,p1")
        expanded = daemon.instance(name)["expanded_config"]
        assert [expanded[f"user.{key}"] for key in "abc"] == ["1", "1", "3"]
        assert daemon.get("/1.0/profiles/p1")["used_by"] == [f"/1.0/instances/{name}"]
        assert "in use" in daemon.refused("profile", "delete", "p1")
        daemon.lxc("profile", "remove", name, "p1")
        daemon.lxc("profile", "add", name, "p1")
        assert daemon.instance(name)["profiles"] == ["default", "p2", "p1"]
        daemon.lxc("profile", "assign", name, "default")
    finally:
        daemon.lxc("profile", "delete", "p2")


def test_limits_cascade_to_a_running_guest(daemon: Daemon, profile: str, launch: Launch) -> None:
    daemon.lxc("profile", "set", profile, "limits.memory=64MiB")
    name = launch("-p", "default", "-p", profile)
    assert daemon.memory_limit(name) == 64 << 20
    daemon.lxc("profile", "set", profile, "limits.memory=80MiB")
    assert daemon.memory_limit(name) == 80 << 20
    daemon.lxc("config", "set", name, "limits.memory=96MiB")
    daemon.lxc("profile", "set", profile, "limits.memory=32MiB")
    assert daemon.memory_limit(name) == 96 << 20
    daemon.lxc("config", "unset", name, "limits.memory")
    assert daemon.memory_limit(name) == 32 << 20
    daemon.lxc("profile", "assign", name, "default")
    assert daemon.memory_limit(name) > 1 << 40


def test_devices_cascade_to_a_running_guest(daemon: Daemon, profile: str, launch: Launch) -> None:
    name = launch("-p", "default", "-p", profile)
    daemon.lxc(
        "profile",
        "device",
        "add",
        profile,
        "null2",
        "unix-char",
        "source=/dev/null",
        "path=/dev/null2",
    )
    assert daemon.exec(name, "sh", "-c", "test -c /dev/null2 && echo yes") == "yes"
    daemon.lxc("profile", "device", "remove", profile, "null2")
    assert daemon.exec(name, "sh", "-c", "test -e /dev/null2 || echo no") == "no"
    daemon.lxc("profile", "assign", name, "default")


def test_profile_without_root_disk_refuses_instances(daemon: Daemon, profile: str) -> None:
    message = daemon.refused("init", "busybox", "rootless", "-p", profile)
    assert "root" in message
    assert daemon.api("GET", "/1.0/instances/rootless").status == 404


def test_unknown_profile_and_keys(daemon: Daemon, profile: str, launch: Launch) -> None:
    assert daemon.refused("init", "busybox", "x1", "-p", "nope")
    assert daemon.refused("profile", "set", profile, "nonsense=1")
    assert daemon.refused("profile", "set", profile, "limits.memory=much")
    assert daemon.refused("profile", "set", profile, "volatile.uuid=x")
    assert daemon.refused("profile", "device", "add", profile, "d", "nosuchtype")
    assert daemon.get("/1.0/profiles/p1")["config"] == {}
