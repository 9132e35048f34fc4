# SPDX-License-Identifier: Apache-2.0
"""`lxc export` and `lxc import`, and the backups API."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nova_lxd.tests.functional.conftest import Launch, furnish, remove
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


@pytest.fixture
def btrfs(daemon: Daemon) -> Iterator[str]:
    daemon.lxc("storage", "create", "fast", "btrfs", "size=1GiB")
    yield "fast"
    daemon.lxc("storage", "delete", "fast")


def test_optimised_round_trip(
    daemon: Daemon, btrfs: str, launch: Launch, tmp_path: Path
) -> None:
    name = launch("-s", btrfs)
    daemon.exec(name, "sh", "-c", "echo one > /root/f; chown 7:8 /root/f; sync")
    daemon.lxc("snapshot", name, "s0")
    daemon.exec(name, "sh", "-c", "echo two > /root/g; sync")
    daemon.lxc("snapshot", name, "s1")
    path = tmp_path / "backup.tar.gz"
    daemon.lxc("export", name, str(path), "--optimized-storage")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert {"backup/container.bin", "backup/snapshots/s0.bin", "backup/snapshots/s1.bin"} <= set(
        names
    )
    assert not any("rootfs" in each for each in names)
    daemon.lxc("delete", "-f", name)
    refused = daemon.refused("import", str(path), "-s", "default")
    assert "optimi" in refused or daemon.backend == "lxd"
    assert daemon.api("GET", f"/1.0/instances/{name}").status == 404
    daemon.lxc("import", str(path))
    assert [each["name"] for each in daemon.instance_snapshots(name)] == ["s0", "s1"]
    daemon.lxc("start", name)
    assert daemon.exec(name, "stat", "-c", "%u:%g", "/root/f") == "7:8"
    assert daemon.exec(name, "cat", "/root/g") == "two"
    daemon.lxc("restore", name, "s0")
    assert daemon.exec(name, "ls", "/root/g", check=False) == ""
    remove(daemon, name)


def test_dir_pools_have_no_optimised_backups(
    daemon: Daemon, launch: Launch, tmp_path: Path
) -> None:
    name = launch(start=False)
    path = tmp_path / "backup.tar.gz"
    daemon.lxc("export", name, str(path), "--optimized-storage")
    with tarfile.open(path) as archive:
        assert "backup/container" in archive.getnames()


def test_optimised_backup_without_its_stream_is_refused(
    daemon: Daemon, btrfs: str, launch: Launch, tmp_path: Path
) -> None:
    name = launch("-s", btrfs, start=False)
    whole, cut = tmp_path / "whole.tar", tmp_path / "cut.tar"
    daemon.lxc("export", name, str(whole), "--optimized-storage", "--compression=none")
    daemon.lxc("delete", name)
    with tarfile.open(whole) as archive, tarfile.open(cut, "w") as copy:
        for member in archive:
            if not member.name.endswith("container.bin"):
                copy.addfile(member, archive.extractfile(member) if member.isreg() else None)
    assert daemon.refused("import", str(cut))
    assert daemon.api("GET", f"/1.0/instances/{name}").status == 404
    if daemon.backend == "bundled":
        pool = daemon.lxd_dir / "storage-pools" / btrfs
        assert daemon.inside("ls", str(pool / "containers")).stdout == ""


@pytest.mark.parametrize("options", [[], ["--optimized-storage"]], ids=["plain", "optimised"])
@pytest.mark.parametrize("direction", ["from", "to"])
def test_backups_go_to_and_from_real_lxd(
    daemon: Daemon, btrfs: str, tmp_path: Path, direction: str, options: list[str]
) -> None:
    """The same streams, names and index in both directions."""
    if daemon.backend == "lxd":
        pytest.skip("real LXD on both sides says nothing of ours")
    with Daemon("lxd", "other") as other:
        furnish(other)
        other.lxc("storage", "create", btrfs, "btrfs", "size=1GiB")
        source, target = (other, daemon) if direction == "from" else (daemon, other)
        path, volume = tmp_path / "backup.tar.gz", tmp_path / "volume.tar.gz"
        source.lxc("launch", "busybox", "wanderer", "-s", btrfs)
        source.exec("wanderer", "sh", "-c", "echo one > /root/f; chown 7:8 /root/f; sync")
        source.lxc("snapshot", "wanderer", "s0")
        source.lxc("export", "wanderer", str(path), *options)
        remove(source, "wanderer")
        source.lxc("storage", "volume", "create", btrfs, "luggage")
        source.lxc("storage", "volume", "snapshot", btrfs, "luggage", "s0")
        source.lxc("storage", "volume", "export", btrfs, "luggage", str(volume))
        source.lxc("storage", "volume", "delete", btrfs, "luggage")
        try:
            target.lxc("import", str(path))
            target.lxc("start", "wanderer")
            assert target.exec("wanderer", "stat", "-c", "%u:%g", "/root/f") == "7:8"
            snapshots = target.instance_snapshots("wanderer")
            assert [each["name"] for each in snapshots] == ["s0"]
            target.lxc("storage", "volume", "import", btrfs, str(volume), "luggage")
            target.lxc("storage", "volume", "restore", btrfs, "luggage", "s0")
            target.lxc("storage", "volume", "delete", btrfs, "luggage")
        finally:
            remove(target, "wanderer")
