# SPDX-License-Identifier: Apache-2.0
"""Disks and device nodes on a real kernel, in a mount namespace of the test's own."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.devices import load
from nova_lxd.lxd.devices.interface import CustomVolume, Device, Host
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import mounts, syscalls
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.paths import Paths
from nova_lxd.tests.unit.devices.fakes import FakeVolumes, make_host, view

MAP = Idmap.simple(1_000_000, 65536)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def mount_namespace() -> Iterator[None]:
    """Mounts of the test are seen by nobody else and go with it."""
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    cwd = Path.cwd()
    syscalls.unshare(syscalls.CLONE_FS)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    yield
    syscalls.setns(home, syscalls.CLONE_NEWNS)
    os.close(home)
    os.chdir(cwd)


@pytest.fixture
def host(paths: Paths) -> Host:
    return make_host(paths.root)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "file").write_text("data")
    return directory


def disk(host: Host, source: Path, *, idmap: Idmap | None = None, **keys: str) -> Device:
    config = {"type": "disk", "source": str(source), "path": "/mnt/in"} | keys
    device = load.load("data", config, view({"data": config}, idmap=idmap), host)
    device.validate()
    return device


def traces(host: Host) -> list[str]:
    """What is left below devices/."""
    return [str(p) for p in host.paths.devices.rglob("*") if not p.is_dir() or p.name != "c1"]


def test_directory_comes_and_goes(host: Host, source: Path) -> None:
    device = disk(host, source)
    (mount,) = device.start().mounts
    assert (mount.target, mount.directory) == ("/mnt/in", True)
    assert (mount.source / "file").read_text() == "data"
    assert [m.target for m in device.stop().mounts] == ["/mnt/in"]
    device.post_stop()
    device.post_stop()
    assert traces(host) == []
    assert (source / "file").exists()


def test_file(host: Host, source: Path) -> None:
    device = disk(host, source / "file")
    (mount,) = device.start().mounts
    assert not mount.directory
    assert mount.source.read_text() == "data"
    device.post_stop()
    assert traces(host) == []


def test_readonly(host: Host, source: Path) -> None:
    device = disk(host, source, readonly="true")
    (mount,) = device.start().mounts
    with pytest.raises(OSError, match="Read-only"):
        (mount.source / "new").touch()
    device.post_stop()


def test_owners_are_mapped_only_when_asked(host: Host, source: Path) -> None:
    os.chown(source / "file", 5, 6)
    device = disk(host, source, idmap=MAP, shift="true")
    (mount,) = device.start().mounts
    info = (mount.source / "file").stat()
    assert (info.st_uid, info.st_gid) == (1_000_005, 1_000_006)
    device.post_stop()
    (mount,) = disk(host, source, idmap=MAP).start().mounts
    assert (mount.source / "file").stat().st_uid == 5
    device.post_stop()


def test_recursive_shows_what_is_mounted_below(host: Host, source: Path) -> None:
    (source / "sub").mkdir()
    syscalls.mount("tmpfs", str(source / "sub"), "tmpfs", 0)
    (source / "sub/inner").touch()
    for recursive in ("true", "false"):
        device = disk(host, source, recursive=recursive)
        (mount,) = device.start().mounts
        assert (mount.source / "sub/inner").exists() == (recursive == "true")
        device.post_stop()
        assert traces(host) == []


def test_slave_follows_new_mounts_of_the_host(host: Host, source: Path) -> None:
    (source / "sub").mkdir()
    mounts.bind(source, source)
    syscalls.mount("", str(source), "", syscalls.MS_SHARED)
    device = disk(host, source, propagation="rslave", recursive="true")
    (mount,) = device.start().mounts
    syscalls.mount("tmpfs", str(source / "sub"), "tmpfs", 0)
    (source / "sub/late").touch()
    assert (mount.source / "sub/late").exists()
    device.post_stop()
    assert traces(host) == []


def test_start_twice_leaves_one_mount(host: Host, source: Path) -> None:
    device = disk(host, source)
    device.start()
    device.start()
    below = [m for m in mounts.mounts() if m.target.startswith(str(host.paths.devices))]
    assert len(below) == 1
    device.post_stop()


def test_missing_source(host: Host, source: Path) -> None:
    gone = source / "gone"
    gone.mkdir()
    needed = disk(host, gone)
    optional = disk(host, gone, required="false")
    gone.rmdir()
    with pytest.raises(BadRequest, match="Missing source path"):
        needed.start()
    assert optional.start().mounts == []
    assert traces(host) == []


def test_file_system_without_idmap_support_is_refused_and_undone(host: Host) -> None:
    with pytest.raises(BadRequest, match="with shifted owners"):
        disk(host, Path("/proc/sys"), idmap=MAP, shift="true").start()
    assert traces(host) == []


def test_custom_volume_is_held_while_it_is_used(host: Host, source: Path) -> None:
    volumes = host.volumes
    assert isinstance(volumes, FakeVolumes)
    volumes.volumes["default", "default", "vol"] = CustomVolume(source)
    config = {"type": "disk", "source": "vol", "pool": "default", "path": "/v"}
    device = load.load("data", config, view({"data": config}, idmap=MAP), host)
    device.validate()
    (mount,) = device.start().mounts
    assert (mount.source / "file").stat().st_uid == 1_000_000
    assert len(volumes.users) == 1
    device.post_stop()
    assert volumes.users == set()


def test_block_device_is_mounted_and_limited(host: Host, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    loop = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        device = disk(host, Path(loop), **{"limits.read": "1MB"})
        run = device.start()
        assert (run.mounts[0].source / "lost+found").is_dir()
        number = os.stat(loop).st_rdev
        (limit,) = run.block_limits
        assert (limit.major, limit.minor, limit.read_bytes) == (
            os.major(number),
            os.minor(number),
            1_000_000,
        )
        device.post_stop()
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    assert traces(host) == []


def test_blank_block_device_is_refused(host: Host, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    loop = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        with pytest.raises(BadRequest, match="no file system"):
            disk(host, Path(loop)).start()
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    assert traces(host) == []


def test_root_size_goes_to_storage(host: Host) -> None:
    config = {"type": "disk", "path": "/", "pool": "default", "size": "2GiB"}
    device = load.load("root", config, view({"root": config}), host)
    root = device.start().root
    assert root is not None and root.pool == "default"
    device.update(config | {"size": "1GiB"})
    assert isinstance(host.volumes, FakeVolumes)
    assert host.volumes.sizes == {("default", "c1"): "2GiB"}


def test_device_node_has_mapped_owner_and_mode(host: Host) -> None:
    config = {"type": "unix-char", "source": "/dev/null", "path": "/dev/my-null"}
    config |= {"uid": "7", "gid": "8", "mode": "0604"}
    device = load.load("n", config, view({"n": config}, idmap=MAP), host)
    device.validate()
    run = device.start()
    (mount,) = run.mounts
    info = mount.source.stat()
    assert stat.S_ISCHR(info.st_mode) and info.st_rdev == os.stat("/dev/null").st_rdev
    assert stat.S_IMODE(info.st_mode) == 0o604
    assert (info.st_uid, info.st_gid) == (1_000_007, 1_000_008)
    assert run.device_rules == ["c 1:3 rwm"]
    given_back = device.stop()
    assert [m.target for m in given_back.mounts] == ["/dev/my-null"]
    assert given_back.device_rules == ["c 1:3 rwm"]
    device.post_stop()
    assert traces(host) == []


def test_device_node_by_numbers(host: Host) -> None:
    config = {"type": "unix-block", "path": "/dev/xb", "major": "7", "minor": "250"}
    device = load.load("n", config, view({"n": config}), host)
    device.validate()
    assert device.start().device_rules == ["b 7:250 rwm"]
    device.post_stop()
