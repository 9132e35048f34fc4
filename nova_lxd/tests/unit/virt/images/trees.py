# SPDX-License-Identifier: Apache-2.0
"""A root with every kind of entry that an archive carries, and what must come out of a disk."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import random
import stat
import tarfile

from nova_lxd.virt.images.extract import archive, blocks

MIB = 1 << 20
CAPABILITY = bytes.fromhex("0100000202000000000000000000000000000000")  # cap_net_bind... of a file


def build(top: pathlib.Path) -> None:
    """Make the tree."""
    generator = random.Random(7)
    for name in ("etc", "usr/bin", "many", "var/empty"):
        (top / name).mkdir(parents=True)
    (top / "etc/fstab").write_text("LABEL=root / ext4 defaults 0 1\n")
    (top / "etc/os-release").write_text("ID=test\n")
    (top / "usr/bin/tool").write_bytes(generator.randbytes(MIB + 17))
    (top / "usr/bin/tool").chmod(0o4755)
    os.link(top / "usr/bin/tool", top / "usr/bin/alias")
    (top / "etc/short").symlink_to("os-release")
    (top / "etc/long").symlink_to("/" + "x" * 200)
    (top / "tiny").write_bytes(b"tiny")
    (top / "empty").write_bytes(b"")
    with (top / "sparse").open("wb") as sparse:
        sparse.seek(5 * MIB)
        sparse.write(b"end")
    for index in range(700):  # enough for a hashed directory
        (top / f"many/a-rather-long-file-name-{index}").write_bytes(b"%d" % index)


def extract(disk: pathlib.Path) -> tarfile.TarFile:
    buffer = io.BytesIO()
    with disk.open("rb") as source:
        system = archive.find_root(blocks.open_disk(source))
        archive.Writer(system, buffer, 1 << 30).write()
    buffer.seek(0)
    return tarfile.open(fileobj=buffer)


def check_same(tree: pathlib.Path, found: tarfile.TarFile) -> None:
    members = {member.name: member for member in found.getmembers()}
    expected = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    assert set(members) == expected
    for name, member in members.items():
        path = tree / name
        assert member.mode == path.lstat().st_mode & 0o7777 or member.issym(), name
        assert (member.uid, member.gid) == (path.lstat().st_uid, path.lstat().st_gid)
        assert member.mtime == int(path.lstat().st_mtime)
        assert member.isfifo() == stat.S_ISFIFO(path.lstat().st_mode), name
        if member.issym():
            assert member.linkname == str(path.readlink())
        elif member.isreg() and name != "etc/fstab":
            data = found.extractfile(member).read()
            assert hashlib.sha256(data).digest() == hashlib.sha256(path.read_bytes()).digest(), (
                name
            )
    assert found.extractfile("etc/fstab").read() == archive.FSTAB
    links = [name for name in ("usr/bin/tool", "usr/bin/alias") if members[name].islnk()]
    assert len(links) == 1
    headers = members["usr/bin/alias"].pax_headers | members["usr/bin/tool"].pax_headers
    value = headers["SCHILY.xattr.security.capability"]
    assert value.encode(errors="surrogateescape") == CAPABILITY
