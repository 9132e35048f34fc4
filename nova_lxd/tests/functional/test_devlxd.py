# SPDX-License-Identifier: Apache-2.0
"""/dev/lxd/sock as a guest sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


def ask(
    daemon: Daemon, name: str, path: str, method: str = "GET", body: str = ""
) -> tuple[int, str]:
    """Status and body of a request that a process in the guest makes."""
    request = (
        f"{method} {path} HTTP/1.0\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}"
    )
    script = f"(printf '{request}'; sleep 0.3) | unixcat /dev/lxd/sock"
    text = daemon.lxc_bytes("exec", name, "--", "sh", "-c", script).stdout.decode()
    head, _sep, rest = text.partition("\r\n\r\n")
    assert head.startswith("HTTP/1."), text
    return int(head.split()[1]), rest


def load(daemon: Daemon, name: str, path: str) -> Any:
    status, text = ask(daemon, name, path)
    assert status == 200, text
    return json.loads(text)


@pytest.fixture
def guest(launch: Launch) -> str:
    """A guest with keys of each kind."""
    return launch(
        "-c", "user.colour=blue", "-c", "user.meta-data=region: here",
        "-c", "cloud-init.user-data=#cloud-config\n{}\n", "-c", "limits.memory=64MiB",
    )  # fmt: skip


def test_versions_and_state(daemon: Daemon, guest: str) -> None:
    assert load(daemon, guest, "/") == ["/1.0"]
    answer = load(daemon, guest, "/1.0")
    assert answer["api_version"] == "1.0"
    assert answer["instance_type"] == "container"


def test_config(daemon: Daemon, guest: str) -> None:
    keys = load(daemon, guest, "/1.0/config")
    assert "/1.0/config/user.colour" in keys
    assert "/1.0/config/cloud-init.user-data" in keys
    assert not [key for key in keys if "limits" in key or "volatile" in key]
    assert ask(daemon, guest, "/1.0/config/user.colour") == (200, "blue")
    status, text = ask(daemon, guest, "/1.0/config/cloud-init.user-data")
    assert (status, text) == (200, "#cloud-config\n{}\n")
    assert ask(daemon, guest, "/1.0/config/user.nope")[0] == 404
    assert ask(daemon, guest, "/1.0/config/limits.memory")[0] == 403
    daemon.lxc("config", "set", guest, "user.colour=red")
    assert ask(daemon, guest, "/1.0/config/user.colour") == (200, "red")


def test_meta_data(daemon: Daemon, guest: str) -> None:
    status, text = ask(daemon, guest, "/1.0/meta-data")
    assert status == 200
    lines = text.splitlines()
    assert lines[0] == "#cloud-config"
    assert any(line.startswith("instance-id: ") for line in lines)
    assert f"local-hostname: {guest}" in lines
    assert "region: here" in lines


def test_devices(daemon: Daemon, guest: str) -> None:
    devices = load(daemon, guest, "/1.0/devices")
    assert devices["eth0"]["network"] == "lxdbr0"
    assert devices["root"]["path"] == "/"


def test_unknown_path(daemon: Daemon, guest: str) -> None:
    assert ask(daemon, guest, "/1.0/nope")[0] == 404
    assert ask(daemon, guest, "/1.0/instances")[0] == 404


def test_guests_are_told_apart(daemon: Daemon, launch: Launch) -> None:
    one, two = launch("-c", "user.who=one"), launch("-c", "user.who=two")
    assert ask(daemon, one, "/1.0/config/user.who") == (200, "one")
    assert ask(daemon, two, "/1.0/config/user.who") == (200, "two")


def test_events(daemon: Daemon, guest: str) -> None:
    """A websocket of the guest hears of changes of its configuration."""
    request = (
        "GET /1.0/events?type=config HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\n"
        "Upgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
    )
    script = f"(printf '{request}'; sleep 60) | unixcat /dev/lxd/sock > /tmp/ev"
    daemon.exec(guest, "sh", "-c", f"({script}) >/dev/null 2>&1 </dev/null &")

    def seen() -> bytes:
        answer = daemon.api("GET", f"/1.0/instances/{guest}/files?path=/tmp/ev")
        return bytes(answer.body) if answer.status == 200 else b""

    wait_for(lambda: b" 101 " in seen(), "the upgrade")
    daemon.lxc("config", "set", guest, "user.colour=green")
    wait_for(lambda: b"user.colour" in seen(), "the event")
    assert b'"old_value":"blue"' in seen() and b'"value":"green"' in seen()


def test_switched_off(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "security.devlxd=false")
    assert daemon.exec(name, "sh", "-c", "test -e /dev/lxd/sock || echo none") == "none"
