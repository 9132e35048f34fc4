# SPDX-License-Identifier: Apache-2.0
"""Archives made to reach into the host: refused, with nothing read, changed or left behind.

For the bundled daemon only: what real LXD does with them is its own affair.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

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
