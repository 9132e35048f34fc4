# SPDX-License-Identifier: Apache-2.0
"""What the daemon answers when the host refuses it: one sentence, the right status, all as it was.

For the bundled daemon only: the faults are made for its process.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nova_lxd.tests.faults.injectors import no_writes
from nova_lxd.tests.functional.conftest import BRIDGE, SUBNET, Launch
from nova_lxd.tests.functional.daemon import Answer, Daemon

C, IDLE, POOL = "/1.0/instances/busy", "/1.0/instances/idle", "/1.0/storage-pools/default"
NIC = {"type": "nic", "network": BRIDGE, "name": "eth7"}
DISK = {"type": "disk", "source": "/tmp", "path": "/mnt/x"}
NODE = {"type": "unix-char", "source": "/dev/null", "path": "/dev/foo"}
PROXY = {"type": "proxy", "listen": "tcp:127.0.0.1:7777", "connect": "tcp:127.0.0.1:77"}
FIXED = {"ipv4.address": f"{SUBNET}.1/24", "ipv6.address": "none"}

WRITES: list[tuple[str, str, Any]] = [
    ("PATCH", "/1.0", {"config": {"user.x": "1"}}),
    ("PUT", "/1.0", {"config": {"user.x": "2"}}),
    ("POST", "/1.0/networks", {"name": "new0", "config": {"ipv6.address": "none"}}),
    ("PATCH", f"/1.0/networks/{BRIDGE}", {"config": {"dns.domain": "changed"}}),
    ("PUT", f"/1.0/networks/{BRIDGE}", {"config": {**FIXED, "ipv4.nat": "true"}}),
    ("POST", "/1.0/networks/spare0", {"name": "spare1"}),
    ("DELETE", "/1.0/networks/spare0", None),
    ("POST", "/1.0/storage-pools", {"name": "new", "driver": "dir"}),
    ("PATCH", POOL, {"config": {"user.a": "b"}}),
    ("POST", f"{POOL}/volumes/custom", {"name": "new"}),
    ("PATCH", f"{POOL}/volumes/custom/vol", {"config": {"user.a": "b"}}),
    ("POST", f"{POOL}/volumes/custom/vol", {"name": "renamed"}),
    ("POST", f"{POOL}/volumes/custom/vol/snapshots", {"name": "s"}),
    ("DELETE", f"{POOL}/volumes/custom/vol", None),
    ("POST", "/1.0/profiles", {"name": "new"}),
    ("PATCH", "/1.0/profiles/default", {"config": {"limits.memory": "100MiB"}}),
    ("POST", "/1.0/profiles/spare", {"name": "renamed"}),
    ("DELETE", "/1.0/profiles/spare", None),
    ("POST", "/1.0/projects", {"name": "new"}),
    ("POST", "/1.0/projects/spare", {"name": "renamed"}),
    ("DELETE", "/1.0/projects/spare", None),
    ("PATCH", C, {"config": {"user.a": "b"}}),
    ("PATCH", C, {"config": {"limits.memory": "50MiB"}}),
    ("PATCH", C, {"devices": {"d": DISK}}),
    ("PATCH", C, {"devices": {"d": NODE}}),
    ("PATCH", C, {"devices": {"d": NIC}}),
    ("PATCH", C, {"devices": {"d": PROXY}}),
    ("PUT", f"{C}/metadata", {"architecture": "x86_64", "templates": {}}),
    ("POST", f"{C}/metadata/templates?path=x.tpl", b"abc"),
    ("POST", f"{C}/files?path=/root/x", b"abc"),
    ("POST", f"{C}/snapshots", {"name": "new"}),
    ("PATCH", f"{C}/snapshots/s0", {"expires_at": "2040-01-01T00:00:00Z"}),
    ("POST", f"{C}/snapshots/s0", {"name": "renamed"}),
    ("DELETE", f"{C}/snapshots/s0", None),
    ("POST", f"{C}/backups", {"name": "new"}),
    ("POST", IDLE, {"name": "renamed"}),
    ("DELETE", IDLE, None),
    ("POST", "/1.0/instances", {"name": "new", "source": {"type": "image", "alias": "busybox"}}),
    ("POST", "/1.0/instances", {"name": "new", "source": {"type": "copy", "source": "idle"}}),
    ("POST", "/1.0/instances", b"no backup"),
    ("POST", "/1.0/images", b"no image"),
    ("POST", "/1.0/images", {"source": {"type": "instance", "name": "idle"}}),
]


@pytest.fixture(autouse=True)
def _bundled(backend: str) -> None:
    if backend != "bundled":
        pytest.skip("makes faults in the bundled daemon's process")


@pytest.fixture(scope="module")
def crowded(daemon: Daemon, backend: str) -> Iterator[Daemon]:
    """The module's daemon with one thing of each kind."""
    if backend == "bundled":
        daemon.lxc("launch", "busybox", "busy")
        daemon.lxc("snapshot", "busy", "s0")
        daemon.lxc("init", "busybox", "idle")
        daemon.lxc("network", "create", "spare0", "ipv4.address=10.78.0.1/24", "ipv6.address=none")
        daemon.lxc("storage", "volume", "create", "default", "vol")
        daemon.lxc("profile", "create", "spare")
        daemon.lxc("project", "create", "spare")
    yield daemon


def ask(daemon: Daemon, method: str, path: str, body: Any) -> Answer:
    headers = {"X-LXD-type": "file"} if "/files" in path else {}
    if isinstance(body, bytes):
        headers["Content-Type"] = "application/octet-stream"
    return daemon.api(method, path, body, headers=headers)


def everything(daemon: Daemon) -> dict[str, Any]:
    """What a client sees of the daemon's things, and the host of its bridges."""
    kinds = ("instances", "networks", "profiles", "projects", "storage-pools", "images")
    seen = {kind: daemon.get(f"/1.0/{kind}?recursion=1") for kind in kinds}
    seen["volumes"] = daemon.get(f"{POOL}/volumes/custom?recursion=1")
    seen["snapshots"] = daemon.get(f"{C}/snapshots?recursion=1")
    seen["config"] = daemon.get("/1.0")["config"]
    seen["limit"] = daemon.memory_limit("busy")
    links = json.loads(daemon.inside("ip", "-j", "link").stdout)
    seen["links"] = sorted(link["ifname"] for link in links)
    return seen


@pytest.mark.parametrize(
    ("method", "path", "body"),
    WRITES,
    ids=[f"{m} {p} {b if isinstance(b, bytes) else json.dumps(b)}"[:90] for m, p, b in WRITES],
)
def test_writes_fail_with_a_sentence_and_change_nothing(
    crowded: Daemon, method: str, path: str, body: Any
) -> None:
    """The disk takes nothing more: 503 or 507 at once, or an operation that says why."""
    before = everything(crowded)
    undo = no_writes(crowded, random.Random())  # type: ignore[arg-type]
    try:
        answer = ask(crowded, method, path, body)
        if answer.status == 202:
            done = crowded.get(f"{answer.body['operation']}/wait?timeout=30")
            assert done["status"] == "Failure", done
            sentence = done["err"]
        else:
            assert answer.status in (503, 507), answer
            sentence = answer.error
    finally:
        undo()
    for word in ("see the daemon's log", "Traceback", "[Errno"):
        assert word not in sentence
    assert "failed" in sentence and len(sentence) < 300, sentence
    assert everything(crowded) == before


@pytest.mark.parametrize("device", [NIC, DISK, NODE, PROXY], ids=lambda device: device["type"])
def test_plugging_while_the_guest_ends(
    daemon: Daemon, launch: Launch, device: dict[str, str]
) -> None:
    """The device is there, or the answer says that the guest has ended or is busy ending."""
    name = launch()
    chance = random.Random(device["type"])
    for _ in range(6):
        pid = str(daemon.get(f"/1.0/instances/{name}/state")["pid"])
        killer = threading.Timer(chance.uniform(0, 0.05), daemon.inside, ("kill", "-9", pid))
        killer.start()
        answer = daemon.api("PATCH", f"/1.0/instances/{name}", {"devices": {"d": device}})
        killer.join()
        assert answer.status in (200, 400, 409), answer
        daemon.wait_status(name, "Stopped")
        gone = {"devices": {"d": {"type": "none"}}}
        assert daemon.api("PATCH", f"/1.0/instances/{name}", gone).status == 200
        daemon.lxc("start", name)
