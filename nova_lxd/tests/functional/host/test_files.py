# SPDX-License-Identifier: Apache-2.0
"""Files of stopped and running containers, and every way out of the root that was thought of."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.host.files import Rootfs
from nova_lxd.tests.functional.host.conftest import Lab


@pytest.fixture(params=["stopped", "running"])
def root(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Rootfs]:
    """The files of container c1."""
    if request.param == "stopped":
        opened = Rootfs.of_directory(lab.tree("c1"))
    else:
        opened = Rootfs.of_running(lab.start("c1"), lab.idmap)
    with opened:
        yield opened


def write(root: Rootfs, path: str, text: str, **options: int | bool) -> None:
    with os.fdopen(root.open_write(path, **options), "w") as stream:  # type: ignore[arg-type]
        stream.write(text)


def read(root: Rootfs, path: str) -> str:
    with os.fdopen(root.open_read(path)) as stream:
        return stream.read()


def number(error: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[error.value.errno or 0]


def test_new_files_belong_to_the_containers_root(root: Rootfs, lab: Lab) -> None:
    write(root, "/root/a", "one")
    info = root.stat("/root/a")
    assert (info.kind, info.uid, info.gid, info.mode, info.size) == ("file", 0, 0, 0o644, 3)
    assert (lab.tree("c1") / "root" / "a").stat().st_uid == 0, "unshifted on disk"


def test_owner_and_mode(root: Rootfs, lab: Lab) -> None:
    write(root, "/root/a", "one", uid=1000, gid=1001, mode=0o600)
    info = root.stat("/root/a")
    assert (info.uid, info.gid, info.mode) == (1000, 1001, 0o600)
    write(root, "/root/a", "two")
    info = root.stat("/root/a")
    assert (info.uid, info.gid, info.mode) == (1000, 1001, 0o600), "an old file keeps them"
    assert (lab.tree("c1") / "root" / "a").stat().st_uid == 1000


def test_append_and_overwrite(root: Rootfs) -> None:
    write(root, "/root/a", "one")
    write(root, "/root/a", "two", append=True)
    assert read(root, "/root/a") == "onetwo"
    write(root, "/root/a", "x")
    assert read(root, "/root/a") == "x"


def test_directories_and_links(root: Rootfs) -> None:
    root.mkdir("/root/d", mode=0o750, uid=7, gid=8)
    info = root.stat("/root/d")
    assert (info.kind, info.uid, info.gid, info.mode) == ("directory", 7, 8, 0o750)
    root.symlink("d/file", "/root/link", uid=7)
    assert root.stat("/root/link").kind == "symlink"
    assert root.stat("/root/link").uid == 7
    assert root.readlink("/root/link") == "d/file"
    write(root, "/root/link", "made through the link")
    assert read(root, "/root/d/file") == "made through the link"
    assert root.listdir("/root") == ["d", "link"]
    with pytest.raises(OSError) as error:
        root.remove("/root/d")
    assert number(error) == "ENOTEMPTY"
    root.rename("/root/d/file", "/root/moved")
    root.remove("/root/d")
    root.remove("/root/link")
    assert root.listdir("/root") == ["moved"]


def test_errors_name_the_path_inside(root: Rootfs) -> None:
    for call in (root.stat, root.open_read, root.listdir, root.remove, root.readlink):
        with pytest.raises(FileNotFoundError) as error:
            call("/no/such")
        assert error.value.filename == "/no/such"
    with pytest.raises(IsADirectoryError):
        root.open_read("/etc")
    with pytest.raises(IsADirectoryError):
        root.open_write("/etc")
    with pytest.raises(FileExistsError):
        root.mkdir("/etc")
    for bad in ("/", "", "..", "/etc/..", "/a\0b"):
        with pytest.raises(OSError):
            root.remove(bad)


def test_links_cannot_lead_out(root: Rootfs, lab: Lab) -> None:
    secret = lab.top / "secret"
    secret.write_text("of the host")
    root.symlink(str(secret), "/root/absolute")
    root.symlink("../" * 30 + str(secret), "/root/relative")
    root.symlink(str(lab.top), "/root/directory")
    for path in ("/root/absolute", "/root/relative", "/root/directory/secret"):
        with pytest.raises(FileNotFoundError):
            root.open_read(path)
    with pytest.raises(FileNotFoundError):
        root.open_read("../" * 30 + str(secret))
    with pytest.raises(FileNotFoundError):
        write(root, "/root/directory/new", "x")
    with pytest.raises(FileNotFoundError):
        root.remove("/root/directory/secret")
    assert secret.read_text() == "of the host"
    assert sorted(p.name for p in lab.top.iterdir() if p.name == "new") == []


def test_pipes_and_nodes_are_refused_without_blocking(root: Rootfs, lab: Lab) -> None:
    os.mkfifo(lab.tree("c1") / "root" / "pipe")
    os.mknod(lab.tree("c1") / "root" / "zero", 0o020666, os.makedev(1, 5))
    started = time.monotonic()
    for name in ("pipe", "zero"):
        assert root.stat(f"/root/{name}").kind == "other"
        for call in (root.open_read, root.open_write):
            with pytest.raises(PermissionError):
                call(f"/root/{name}")
    assert time.monotonic() - started < 1


def test_the_threads_identity_comes_back(root: Rootfs, lab: Lab) -> None:
    root.listdir("/")
    with pytest.raises(FileNotFoundError):
        root.stat("/nope")
    made = lab.top / "made-after"
    made.write_text("x")
    assert made.stat().st_uid == 0
    status = Path("/proc/thread-self/status").read_text()
    assert "Uid:\t0\t0\t0\t0" in status


def test_tmpfs_of_the_container(lab: Lab) -> None:
    running = lab.start("c1")
    assert lab.exec("c1", "mount", "-t", "tmpfs", "none", "/tmp")[0] == 0
    with Rootfs.of_running(running, lab.idmap) as root:
        write(root, "/tmp/here", "x", uid=1000, gid=1000)
        root.mkdir("/tmp/d", uid=3)
        assert (root.stat("/tmp/here").uid, root.stat("/tmp/d").uid) == (1000, 3)
    assert lab.exec("c1", "stat", "-c", "%u", "/tmp/here")[1] == "1000\n"


def test_root_may_read_what_another_user_hides(lab: Lab) -> None:
    running = lab.start("c1")
    lab.exec("c1", "sh", "-c", "echo x > /tmp/f; busybox chown 5:5 /tmp/f; busybox chmod 0 /tmp/f")
    with Rootfs.of_running(running, lab.idmap) as root:
        assert read(root, "/tmp/f") == "x\n"


@pytest.mark.parametrize("kind", ["lab", "privileged_lab"])
def test_doors_to_the_kernel_stay_shut(kind: str, request: pytest.FixtureRequest) -> None:
    lab: Lab = request.getfixturevalue(kind)
    running = lab.start("c1")
    with Rootfs.of_running(running, lab.idmap) as root:
        assert read(root, "/proc/version").startswith("Linux")
        for path in (
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/1/oom_score_adj",
            "/sys/kernel/uevent_helper",
        ):
            with pytest.raises(OSError) as error:
                root.open_write(path)
            assert number(error) in ("EACCES", "ENOENT"), path
        with pytest.raises(PermissionError):
            root.open_write("/proc/sysrq-trigger")
        with pytest.raises(PermissionError):
            root.open_read("/proc/kmsg")
        with pytest.raises(OSError):
            root.open_read("/proc/1/root/etc/inittab")
        with pytest.raises(PermissionError):
            root.mkdir("/sys/kernel/mine")


def test_ended_container_is_told(lab: Lab) -> None:
    running = lab.start("c1")
    running.kill()
    with pytest.raises(ProcessLookupError):
        Rootfs.of_running(running, lab.idmap)


def test_ids_outside_the_map_are_refused(lab: Lab) -> None:
    running = lab.start("c1")
    with Rootfs.of_running(running, lab.idmap) as root:
        with pytest.raises(OSError) as error:
            root.mkdir("/root/d", uid=4000000000)
        assert number(error) == "EINVAL"
        assert root.listdir("/root") == []
