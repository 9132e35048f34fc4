# SPDX-License-Identifier: Apache-2.0
"""`lxc export` and `lxc import`, and the backups API."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from nova_lxd.tests.functional.conftest import Launch, remove
from nova_lxd.tests.functional.daemon import Daemon


@pytest.mark.parametrize("compression", ["gzip", "none", "xz"])
def test_round_trip(daemon: Daemon, launch: Launch, tmp_path: Path, compression: str) -> None:
    name = launch("-c", "user.mark=1")
    daemon.exec(
        name, "sh", "-c",
        "echo one > /root/f; chown 1000:1000 /root/f; chmod 4711 /root/f; ln -s f /root/l;"
        "mkfifo /root/p",
    )  # fmt: skip
    daemon.lxc("snapshot", name, "s0")
    daemon.exec(name, "sh", "-c", "echo two > /root/g")
    daemon.lxc("stop", "-f", name)
    before = daemon.instance(name)
    path = tmp_path / "backup.tar"
    daemon.lxc("export", name, str(path), "--compression", compression)
    daemon.lxc("delete", name)
    daemon.lxc("import", str(path))
    after = daemon.instance(name)
    assert after["config"]["user.mark"] == "1"
    assert after["config"]["volatile.uuid"] == before["config"]["volatile.uuid"]
    assert after["profiles"] == ["default"]
    assert [each["name"] for each in daemon.instance_snapshots(name)] == ["s0"]
    daemon.lxc("start", name)
    assert daemon.exec(name, "stat", "-c", "%a %u:%g", "/root/f") == "4711 1000:1000"
    assert daemon.exec(name, "readlink", "/root/l") == "f"
    assert daemon.exec(name, "stat", "-c", "%F", "/root/p") == "fifo"
    assert daemon.exec(name, "cat", "/root/g") == "two"
    daemon.lxc("restore", name, "s0")
    assert daemon.exec(name, "ls", "/root/g", check=False) == ""


def test_import_under_another_name(daemon: Daemon, launch: Launch, tmp_path: Path) -> None:
    name = launch(start=False)
    path = tmp_path / "b.tar.gz"
    daemon.lxc("export", name, str(path), "--instance-only")
    assert daemon.refused("import", str(path)), "the name is taken"
    try:
        daemon.lxc("import", str(path), "second")
        assert daemon.status("second") == "Stopped"
        daemon.lxc("start", "second")
    finally:
        remove(daemon, "second")


def test_what_is_in_it(daemon: Daemon, launch: Launch, tmp_path: Path) -> None:
    name = launch(start=False)
    daemon.lxc("snapshot", name, "s0")
    path = tmp_path / "b.tar.gz"
    daemon.lxc("export", name, str(path))
    with tarfile.open(path) as tar:
        names = tar.getnames()
        index = tar.extractfile("backup/index.yaml")
        assert index is not None
        content = yaml.safe_load(index.read())
    assert names[0] == "backup/index.yaml" or "backup/index.yaml" in names
    assert "backup/container/rootfs/bin/busybox" in names
    assert "backup/snapshots/s0/rootfs/bin/busybox" in names
    assert content["name"] == name and content["backend"] == "dir" and content["pool"] == "default"
    assert content["snapshots"] == ["s0"] and content["type"] == "container"
    assert content["config"]["container"]["name"] == name


def test_backups_api(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    path = f"/1.0/instances/{name}/backups"
    daemon.operate("POST", path, {"name": "b0", "instance_only": True})
    assert daemon.get(path) == [f"{path}/b0"]
    shown = daemon.get(f"{path}/b0")
    assert shown["name"] == "b0" and shown["instance_only"] is True
    exported = daemon.api("GET", f"{path}/b0/export")
    assert exported.status == 200 and exported.body[:2] == b"\x1f\x8b"
    daemon.operate("POST", f"{path}/b0", {"name": "b1"})
    assert daemon.get(path) == [f"{path}/b1"]
    daemon.operate("DELETE", f"{path}/b1")
    assert daemon.get(path) == []


def test_rubbish_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"no backup\n" * 1000)
    before = daemon.get("/1.0/instances")
    assert daemon.refused("import", str(rubbish))
    empty = tmp_path / "empty.tar"
    subprocess.run(["tar", "-cf", str(empty), "-T", "/dev/null"], check=True)
    assert daemon.refused("import", str(empty))
    assert daemon.get("/1.0/instances") == before


def test_volume_round_trip(daemon: Daemon, launch: Launch, tmp_path: Path) -> None:
    daemon.lxc("storage", "volume", "create", "default", "vb")
    name = launch()
    path = tmp_path / "v.tar.gz"
    try:
        daemon.lxc("storage", "volume", "attach", "default", "vb", name, "/mnt")
        daemon.exec(name, "sh", "-c", "echo data > /mnt/f")
        daemon.lxc("storage", "volume", "detach", "default", "vb", name)
        daemon.lxc("storage", "volume", "export", "default", "vb", str(path))
        daemon.lxc("storage", "volume", "delete", "default", "vb")
        daemon.lxc("storage", "volume", "import", "default", str(path), "vb")
        daemon.lxc("storage", "volume", "attach", "default", "vb", name, "/mnt")
        assert daemon.exec(name, "cat", "/mnt/f") == "data"
        daemon.lxc("storage", "volume", "detach", "default", "vb", name)
    finally:
        daemon.lxc("storage", "volume", "delete", "default", "vb")
