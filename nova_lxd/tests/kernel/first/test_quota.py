# SPDX-License-Identifier: Apache-2.0
"""Sizes in dir pools, kept by project quotas of ext4 and xfs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nova_lxd.lxd.storage import kernel
from nova_lxd.tests.kernel.conftest import Launch
from nova_lxd.tests.kernel.host import lxc, query, refused, run, state

MIB = 1024**2
_FORMAT = {"ext4": ("-O", "quota,project", "-E", "quotatype=prjquota"), "xfs": ()}


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def pool(
    request: pytest.FixtureRequest, service: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A dir pool on a file system with project quotas."""
    fstype = request.param
    place = tmp_path_factory.mktemp(fstype)
    image, mounted = place / "image", place / "mounted"
    mounted.mkdir()
    with image.open("xb") as file:
        file.truncate(400 * MIB)
    with ExitStack() as undo:
        run(f"mkfs.{fstype}", "-q", *_FORMAT[fstype], image)
        run("mount", "-o", "loop,prjquota", image, mounted)
        undo.callback(run, "umount", mounted)
        source = mounted / "pool"
        source.mkdir()
        lxc("storage", "create", fstype, "dir", f"source={source}")
        undo.callback(lxc, "storage", "delete", fstype)
        yield fstype


def fill(name: str, mebibytes: int, path: str = "/big") -> tuple[int, str]:
    """Write in the guest; how much it took in MiB, and what ``dd`` said."""
    command = f"dd if=/dev/zero of={path} bs=1048576 count={mebibytes}; sync"
    done = subprocess.run(
        ["lxc", "exec", name, "--", "sh", "-c", command],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "LXD_DIR": "/var/lib/nova-lxd"},
    )  # fmt: skip
    size = lxc("exec", name, "--", "stat", "-c", "%s", path)
    return int(size) // MIB, done.stdout + done.stderr


def source(pool: str) -> Path:
    """The directory that a pool is in."""
    return Path(query(f"/1.0/storage-pools/{pool}")["config"]["source"])


def test_size_of_a_root_disk(pool: str, launch: Launch) -> None:
    name = launch("-s", pool, "-d", "root,size=24MiB")
    taken, said = fill(name, 60)
    assert 15 <= taken < 24
    assert "No space left" in said or "Disk quota exceeded" in said, said
    used = state(name)["disk"]["root"]["usage"]
    assert taken * MIB <= used <= 24 * MIB
    lxc("config", "device", "set", name, "root", "size=60MiB")
    assert fill(name, 40)[0] == 40
    assert state(name)["disk"]["root"]["usage"] >= 40 * MIB
    lxc("exec", name, "--", "rm", "/big")
    lxc("config", "device", "unset", name, "root", "size")
    assert fill(name, 90)[0] == 90


def test_project_ends_with_the_instance(pool: str, launch: Launch) -> None:
    name = launch("-s", pool, "-d", "root,size=24MiB", start=False)
    [project] = own_projects(pool)
    limit, used = quota(pool, project)
    assert limit == 24 * MIB and used > 0
    lxc("delete", name)
    assert quota(pool, project) == (0, 0)


def own_projects(pool: str) -> list[int]:
    """The project ids of the instances' directories."""
    found = []
    for path in (source(pool) / "containers").iterdir():
        fields = run("lsattr", "-pd", path).stdout.split()
        found.append(int(fields[0]))
    return [number for number in found if number]


def quota(pool: str, project: int) -> tuple[int, int]:
    """(limit, use) in bytes; (0, 0) when the kernel has no record."""
    fd = os.open(source(pool), os.O_RDONLY)
    try:
        return kernel.project_quota(fd, project)
    except FileNotFoundError:
        return 0, 0
    finally:
        os.close(fd)


def test_copies_and_snapshots_keep_it(pool: str, launch: Launch) -> None:
    name = launch("-s", pool, "-d", "root,size=30MiB", start=False)
    lxc("snapshot", name, "s0")
    lxc("copy", name, f"{name}-copy")
    try:
        lxc("start", f"{name}-copy")
        assert fill(f"{name}-copy", 60)[0] < 30
    finally:
        lxc("delete", "-f", f"{name}-copy")
    lxc("restore", name, "s0")
    lxc("start", name)
    assert fill(name, 60)[0] < 30


def test_custom_volume(pool: str, launch: Launch) -> None:
    lxc("storage", "volume", "create", pool, "data", "size=10MiB")
    try:
        name = launch("-s", pool)
        lxc("storage", "volume", "attach", pool, "data", name, "/data")
        assert 8 <= fill(name, 30, "/data/big")[0] <= 10
        lxc("storage", "volume", "set", pool, "data", "size=20MiB")
        assert 17 <= fill(name, 30, "/data/big")[0] <= 20
        shown = json.loads(lxc("query", f"/1.0/storage-pools/{pool}/volumes/custom/data/state"))
        assert 17 * MIB <= shown["usage"]["used"] <= 20 * MIB
        lxc("delete", "-f", name)
    finally:
        lxc("storage", "volume", "delete", pool, "data")


def test_image_beyond_the_size_is_refused(pool: str) -> None:
    before = len(query("/1.0/instances"))
    said = refused("init", "busybox", "small", "-s", pool, "-d", "root,size=100KiB")
    assert "space" in said or "size" in said or "quota" in said, said
    assert len(query("/1.0/instances")) == before
    assert not list((source(pool) / "containers").iterdir())
