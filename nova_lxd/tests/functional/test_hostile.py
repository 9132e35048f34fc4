# SPDX-License-Identifier: Apache-2.0
"""Archives made to reach into the host, and guests that make what is hard to tell of.

The first are refused, with nothing read, changed or left behind.  For the bundled daemon only:
what real LXD does with these is its own affair.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon

SECRET = "of the host"


@pytest.fixture(autouse=True)
def _bundled(backend: str) -> None:
    if backend != "bundled":
        pytest.skip("tests the defences of the bundled daemon")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A tree of the host laid out as a backup's parts, whose files must stay as they are."""
    for part in ("container", "volume", "s0"):
        rootfs = tmp_path / "victim" / part / "rootfs"
        rootfs.mkdir(parents=True)
        (rootfs / "secret").write_text(SECRET)
    return tmp_path / "victim"


def index(name: str, kind: str, snapshots: list[str]) -> dict[str, Any]:
    container = {
        "architecture": "x86_64",
        "config": {
            "volatile.last_state.idmap": '[{"Isuid":true,"Isgid":true,"Hostid":0,"Nsid":7,'
            '"Maprange":1}]'
        },
        "devices": {},
        "profiles": ["default"],
        "name": name,
    }
    return {
        "name": name,
        "backend": "dir",
        "pool": "default",
        "type": kind,
        "snapshots": snapshots,
        "config": {
            "container": container,
            "volume": {"name": name, "config": {}},
            "snapshots": [{**container, "name": each} for each in snapshots],
        },
    }


def archive(path: Path, told: dict[str, Any], *entries: tarfile.TarInfo) -> Path:
    """A backup with this index and these entries."""
    with tarfile.open(path, "w") as tar:
        data = json.dumps(told).encode()  # YAML without aliases
        info = tarfile.TarInfo("backup/index.yaml")
        info.size = len(data)
        links = [entry for entry in entries if entry.name == "backup"]
        for entry in (each for each in entries if each not in links):
            tar.addfile(entry)
        tar.addfile(info, io.BytesIO(data))
        for entry in links:
            tar.addfile(entry)
    return path


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def unharmed(victim: Path) -> bool:
    found = [path.lstat() for path in victim.rglob("*")]
    return all((status.st_uid, status.st_gid) == (0, 0) for status in found) and all(
        path.read_text() == SECRET for path in victim.rglob("secret")
    )


@pytest.mark.parametrize("which", ["container", "rootfs", "snapshots", "snapshot rootfs"])
def test_a_backup_cannot_reach_out_by_links(
    daemon: Daemon, tmp_path: Path, victim: Path, which: str
) -> None:
    top = directory("backup/container")
    whole = [top, directory("backup/container/rootfs")]
    entries, snapshots = {
        "container": ([link("backup/container", f"{victim}/container")], []),
        "rootfs": (
            [top, link("backup/container/rootfs", f"{victim}/s0/rootfs")],
            [],
        ),
        "snapshots": ([*whole, link("backup/snapshots", str(victim))], ["s0"]),
        "snapshot rootfs": (
            [
                *whole,
                directory("backup/snapshots/s0"),
                link("backup/snapshots/s0/rootfs", f"{victim}/s0/rootfs"),
            ],
            ["s0"],
        ),
    }[which]
    path = archive(tmp_path / "b.tar", index("hostile", "container", snapshots), *entries)
    before = daemon.get("/1.0/instances")
    error = daemon.refused("import", str(path))
    assert "backup/" in error, error
    assert daemon.get("/1.0/instances") == before
    assert unharmed(victim)


@pytest.mark.parametrize("which", ["backup", "volume", "volume-snapshots"])
def test_a_volume_backup_cannot_reach_out_by_links(
    daemon: Daemon, tmp_path: Path, victim: Path, which: str
) -> None:
    entries, snapshots = {
        "backup": ([link("backup", str(victim))], []),
        "volume": ([link("backup/volume", f"{victim}/volume")], []),
        "volume-snapshots": (
            [directory("backup/volume"), link("backup/volume-snapshots", str(victim))],
            ["s0"],
        ),
    }[which]
    path = archive(tmp_path / "v.tar", index("hostile", "custom", snapshots), *entries)
    before = daemon.get("/1.0/storage-pools/default/volumes/custom")
    daemon.refused("storage", "volume", "import", "default", str(path), "hostile")
    assert daemon.get("/1.0/storage-pools/default/volumes/custom") == before
    assert unharmed(victim)


def test_names_of_a_guest_that_are_no_text_are_told(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(name, "sh", "-c", "mkdir /root/d; touch /root/d/a \"$(printf '/root/d/\\377')\"")
    assert daemon.get(f"/1.0/instances/{name}/files?path=/root/d") == ["a", "\ufffd"]
    daemon.exec(name, "sh", "-c", "ln -s \"$(printf '\\377\\r\\nx')\" /root/link")
    answer = daemon.api("GET", f"/1.0/instances/{name}/files?path=/root/link")
    assert answer.status == 200 and answer.body == b"/root/\xff\r\nx"
    odd = "/root/a\r\nX-Injected: 1"
    headers = {"X-LXD-type": "file"}
    path = f"/1.0/instances/{name}/files?path={quote(odd)}"
    assert daemon.api("POST", path, b"x", headers=headers).status == 200
    answer = daemon.api("GET", path)
    assert answer.status == 200 and "x-injected" not in answer.headers


@pytest.mark.parametrize("seconds", [2**40, -(2**40)])
def test_times_of_a_guest_beyond_the_calendar_are_told(
    daemon: Daemon, launch: Launch, seconds: int
) -> None:
    name = launch()
    daemon.exec(name, "touch", "/tmp/f")
    pid = daemon.get(f"/1.0/instances/{name}/state")["pid"]
    daemon.inside("touch", "-d", f"@{seconds}", f"/proc/{pid}/root/tmp/f")
    assert daemon.api("GET", f"/1.0/instances/{name}/files?path=/tmp/f").status == 200


def test_interfaces_of_a_guest_with_odd_names_are_told(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    pid = str(daemon.get(f"/1.0/instances/{name}/state")["pid"])
    odd = os.fsdecode(b'\xff"a')
    daemon.inside("nsenter", "-t", pid, "-n", "ip", "link", "add", odd, "type", "veth")
    found = daemon.get(f"/1.0/instances/{name}/state")["network"]
    assert "\ufffd\"a" in found
    assert daemon.api("GET", "/1.0/metrics").status == 200
    assert daemon.api("GET", "/1.0/instances?recursion=2").status == 200


@pytest.mark.parametrize("kind", ["instances", "networks", "profiles", "images", "certificates"])
def test_deep_bodies_are_refused(daemon: Daemon, kind: str) -> None:
    for body in (b"[" * 200_000, b'{"a":' * 200_000, b'{"config":' + b'{"a":' * 200_000):
        headers = {"Content-Type": "application/json"}
        answer = daemon.api("POST", f"/1.0/{kind}", body, headers=headers)
        assert answer.status == 400, answer


def test_a_slow_pattern_does_not_stop_the_daemon(daemon: Daemon) -> None:
    daemon.api("PATCH", "/1.0/profiles/default", {"description": "a" * 60 + "!"})
    pattern = quote("description eq (a+)+$")
    began = time.monotonic()
    assert daemon.api("GET", f"/1.0/instances?recursion=1&filter={pattern}").status == 200
    assert time.monotonic() - began < 20


def test_a_template_cannot_stop_the_daemon(daemon: Daemon, launch: Launch) -> None:
    """Its tags once took hours to be read, with nothing else served meanwhile."""
    name = launch(start=False)
    base = f"/1.0/instances/{name}/metadata"
    told = daemon.get(base)
    told["templates"] = {
        "/root/t": {"when": ["start"], "create_only": False, "template": "t.tpl", "properties": {}}
    }
    headers = {"Content-Type": "application/octet-stream"}
    text = (b"{% comment %}" * 80_000)[: 1 << 20]
    assert daemon.api("POST", f"{base}/templates?path=t.tpl", text, headers=headers).status == 200
    assert daemon.api("PUT", base, told).status == 200
    began = time.monotonic()
    daemon.refused("start", name)
    assert time.monotonic() - began < 30
    assert daemon.status(name) == "Stopped"
