# SPDX-License-Identifier: Apache-2.0
"""Changing the owners of a tree and back."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.host.shift import shift, unshift

MAP = Idmap.simple(100000, 65536)
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # net_bind_service, effective
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 2**32 - 1), (2, 4, 33), (4, 4, 2**32 - 1), (8, 4, 44), (16, 4, 2**32 - 1),
                  (32, 0, 2**32 - 1))
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("changing owners needs root")
    top = tmp_path / "tree"
    (top / "dir").mkdir(parents=True)
    (top / "dir" / "suid").touch()
    os.chown(top / "dir" / "suid", 5, 6)
    (top / "dir" / "suid").chmod(0o4755)
    (top / "cap").touch()
    os.setxattr(top / "cap", "security.capability", CAPABILITY)
    os.setxattr(top / "cap", "system.posix_acl_access", ACL)
    os.link(top / "cap", top / "hard")
    (top / "link").symlink_to("/etc/passwd")
    (top / "dirlink").symlink_to("/")
    os.mkfifo(top / "pipe")
    return top


def picture(top: Path) -> dict[str, object]:
    """All that a shift changes or must keep."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        xattrs: dict[str, bytes] = {}
        if not path.is_symlink():
            xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        found[path.name] = (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), xattrs)
    return found


def test_there_and_back(tree: Path) -> None:
    before = picture(tree)
    passwd = Path("/etc/passwd").stat()
    shift(tree, MAP)
    assert {p.lstat().st_uid for p in tree.rglob("*")} == {100000, 100005}
    assert tree.stat().st_uid == 100000
    suid = (tree / "dir" / "suid").stat()
    assert (suid.st_uid, suid.st_gid, stat.S_IMODE(suid.st_mode)) == (100005, 100006, 0o4755)
    capability = os.getxattr(tree / "cap", "security.capability")
    assert struct.unpack("<6I", capability)[::5] == (0x03000001, 100000)
    acl = subprocess.run(
        ["getfacl", "-n", tree / "hard"], capture_output=True, text=True, check=False
    )
    if acl.returncode == 0:
        assert "user:100033:r--" in acl.stdout and "group:100044:r--" in acl.stdout
    assert Path("/etc/passwd").stat().st_uid == passwd.st_uid
    assert Path("/").stat().st_uid == 0
    unshift(tree, MAP)
    assert picture(tree) == before


def test_owner_outside_the_map(tree: Path) -> None:
    os.chown(tree / "dir", 70000, 0)
    with pytest.raises(InternalError, match="uid 70000"):
        shift(tree, MAP)
