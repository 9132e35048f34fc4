# SPDX-License-Identifier: Apache-2.0
"""Mounts and device nodes, on the host and in running containers."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nova_lxd.lxd.host import mounts, syscalls
from nova_lxd.lxd.host.idmap import userns_fd
from nova_lxd.tests.functional.host.conftest import Lab, make_node


@pytest.fixture
def shared(lab: Lab) -> Path:
    """A directory of the host with a file of uid 1000 in it."""
    path = lab.top / "a shared dir"
    path.mkdir()
    (path / "file").write_text("hello")
    os.chown(path / "file", 1000, 1000)
    return path


def test_bind_and_unmount(lab: Lab, shared: Path) -> None:
    target = lab.top / "target dir"
    target.mkdir()
    mounts.bind(shared, target)
    found = mounts.find(target)
    assert found is not None
    assert found.target == str(target), "spaces are told apart from fields"
    assert "shared" not in found.propagation
    assert (target / "file").read_text() == "hello"
    mounts.bind(shared, target, readonly=True)
    with pytest.raises(OSError) as error:
        (target / "file").write_text("x")
    assert error.value.errno == errno.EROFS
    assert len(mounts.below(lab.top)) == 2
    assert mounts.unmount(target) is True
    mounts.unmount_all(lab.top)
    assert mounts.unmount(target) is False
    assert mounts.unmount(lab.top / "nothing") is False


def test_bind_is_private_below_a_shared_mount(lab: Lab, shared: Path) -> None:
    parent = lab.top / "parent"
    parent.mkdir()
    mounts.bind(shared, parent)
    syscalls.mount("none", str(parent), "", syscalls.MS_SHARED)
    (parent / "target").mkdir()
    mounts.bind(shared, parent / "target")
    found = mounts.find(parent / "target")
    assert found is not None and found.propagation == ""
    mounts.unmount_all(parent)


def test_bind_of_a_missing_directory(lab: Lab) -> None:
    with pytest.raises(FileNotFoundError):
        mounts.bind(lab.top / "missing", lab.top)
    with pytest.raises(FileNotFoundError):
        mounts.bind(lab.top, lab.top / "missing")
    assert mounts.below(lab.top) == []


def test_idmapped_view(lab: Lab, shared: Path) -> None:
    target = lab.top / "mapped"
    target.mkdir()
    mounts.bind(shared, target, userns_fd=userns_fd(lab.idmap))
    assert (target / "file").stat().st_uid == lab.idmap.host_uid(1000)
    assert mounts.supports_idmap(shared, userns_fd(lab.idmap))
    assert not mounts.supports_idmap("/proc/sys", userns_fd(lab.idmap))
    mounts.unmount(target)


def test_directory_plugged_into_a_running_container(lab: Lab, shared: Path) -> None:
    running = lab.start("c1")
    fd = mounts.clone(shared, userns_fd=userns_fd(lab.idmap))
    lab.zygote.mount(running.init, fd, "/mnt/deep/er", directory=True, root=lab.root_ids)
    os.close(fd)
    out = lab.exec("c1", "sh", "-c", "cat /mnt/deep/er/file; stat -c ' %u' /mnt/deep/er/file")[1]
    assert out == "hello 1000\n"
    assert lab.exec("c1", "stat", "-c", "%u", "/mnt")[1] == "0\n"
    with pytest.raises(OSError) as error:
        lab.zygote.unmount(running.init, "/mnt/deep")
    assert error.value.errno == errno.EINVAL
    lab.zygote.unmount(running.init, "/mnt/deep/er")
    assert lab.exec("c1", "ls", "/mnt/deep/er")[1] == ""


def test_read_only_file_plugged_in(lab: Lab, shared: Path) -> None:
    running = lab.start("c1")
    fd = mounts.clone(shared / "file", userns_fd=userns_fd(lab.idmap), readonly=True)
    lab.zygote.mount(running.init, fd, "/root/file", directory=False, root=lab.root_ids)
    os.close(fd)
    code, out = lab.exec("c1", "sh", "-c", "echo x > /root/file")
    assert code != 0 and "Read-only" in out
    lab.zygote.unmount(running.init, "/root/file", remove=True, root=lab.root_ids)
    assert lab.exec("c1", "ls", "/root")[1] == ""


def test_target_cannot_lead_out_of_the_container(lab: Lab, shared: Path) -> None:
    running = lab.start("c1")
    outside = lab.top / "outside"
    outside.mkdir()
    lab.exec("c1", "busybox", "ln", "-s", str(outside), "/root/link")
    fd = mounts.clone(shared)
    with pytest.raises(FileNotFoundError):
        lab.zygote.mount(running.init, fd, "/root/link/new", directory=True, root=lab.root_ids)
    os.close(fd)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("when", ["start", "running"])
def test_device_node(lab: Lab, when: str) -> None:
    source = lab.top / "node"
    owner = lab.idmap.host_uid(1000), lab.idmap.host_gid(5)
    assert owner[0] is not None and owner[1] is not None
    entry = make_node(source, os.makedev(1, 5), (owner[0], owner[1]), 0o640)
    if when == "start":
        running = lab.start("c1", entry)
    else:
        running = lab.start("c1")
        fd = mounts.clone(source)
        lab.zygote.mount(running.init, fd, "/dev/mine", directory=False, root=lab.root_ids)
        os.close(fd)
    assert lab.exec("c1", "stat", "-c", "%u %g %a", "/dev/mine")[1] == "1000 5 640\n"
    assert lab.exec("c1", "dd", "if=/dev/mine", "of=/dev/null", "count=1")[0] == 0
    if when == "running":
        lab.zygote.unmount(running.init, "/dev/mine", remove=True, root=lab.root_ids)
        assert lab.exec("c1", "ls", "/dev/mine")[0] != 0
