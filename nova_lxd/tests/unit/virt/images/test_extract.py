# SPDX-License-Identifier: Apache-2.0
"""Disk images: what mke2fs and qemu-img write comes out as it went in; broken ones are refused."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tarfile

import pytest

from nova_lxd.virt.images.extract import archive, blocks, ext4, partitions
from nova_lxd.virt.images.extract.__main__ import UNUSABLE

NEEDED = ("mke2fs", "qemu-img", "debugfs")
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
MIB = 1 << 20
START = MIB  # of the root partition

pytestmark = pytest.mark.skipif(
    not all(shutil.which(name, path=SEARCH) for name in NEEDED),
    reason=f"one of {NEEDED} is missing",
)


def run(*command: object) -> None:
    environment = {**os.environ, "PATH": SEARCH}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A root with every kind of entry that an archive carries."""
    top = tmp_path_factory.mktemp("tree")
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
    return top


def make(tree: pathlib.Path, target: pathlib.Path, *options: str) -> pathlib.Path:
    """Write a disk with one GPT partition that holds the tree."""
    system = target.with_suffix(".fs")
    system.unlink(missing_ok=True)
    run("mke2fs", "-q", "-F", "-d", tree, *options, system, "48M")
    run("debugfs", "-w", "-R", 'ea_set /usr/bin/tool security.capability "cap\\001\\200"', system)
    content = system.read_bytes()
    with target.open("wb") as disk:
        disk.truncate(START + len(content) + MIB)
        disk.seek(510)
        disk.write(partitions.MBR_SIGNATURE)
        disk.write(partitions.GPT_SIGNATURE)
        disk.seek(partitions.SECTOR + 72)
        disk.write(struct.pack("<QII", 2, 128, 128))
        disk.seek(2 * partitions.SECTOR + 128)  # the second entry
        sectors = len(content) // partitions.SECTOR
        first = START // partitions.SECTOR
        disk.write(b"\1" * 32 + struct.pack("<QQ", first, first + sectors - 1))
        disk.seek(START)
        disk.write(content)
    system.unlink()
    return target


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
        if member.issym():
            assert member.linkname == str(path.readlink())
        elif path.is_file() and name != "etc/fstab":
            data = found.extractfile(member).read()
            assert hashlib.sha256(data).digest() == hashlib.sha256(path.read_bytes()).digest(), (
                name
            )
    assert found.extractfile("etc/fstab").read() == archive.FSTAB
    links = [name for name in ("usr/bin/tool", "usr/bin/alias") if members[name].islnk()]
    assert len(links) == 1
    headers = members["usr/bin/alias"].pax_headers | members["usr/bin/tool"].pax_headers
    value = headers["SCHILY.xattr.security.capability"]
    assert value.encode(errors="surrogateescape") == b"cap\x01\x80"


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext4"),
        ("-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum"),
        ("-t", "ext4", "-I", "256", "-O", "inline_data"),
        ("-t", "ext3", "-b", "1024"),
        ("-t", "ext2"),
    ],
    ids=["ext4", "ext4-1k", "inline", "ext3", "ext2"],
)
def test_file_system_comes_out_as_it_went_in(
    tree: pathlib.Path, tmp_path: pathlib.Path, options: tuple[str, ...]
) -> None:
    check_same(tree, extract(make(tree, tmp_path / "disk.raw", *options)))


@pytest.fixture(scope="module")
def raw(tree: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make(tree, tmp_path_factory.mktemp("raw") / "disk.raw", "-t", "ext4")


@pytest.mark.parametrize(
    "options",
    [(), ("-c",), ("-o", "compat=0.10"), ("-o", "cluster_size=4096")],
    ids=["plain", "compressed", "version2", "small-clusters"],
)
def test_qcow2(
    tree: pathlib.Path, raw: pathlib.Path, tmp_path: pathlib.Path, options: tuple[str, ...]
) -> None:
    image = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, image)
    check_same(tree, extract(image))


def test_child_process_writes_the_archive(raw: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "out.tar"
    command = [
        sys.executable, "-m", "nova_lxd.virt.images.extract", str(raw), str(target),
        "--max-bytes", str(1 << 28), "--cpu-seconds", "60",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    with tarfile.open(target) as found:
        assert "etc/os-release" in found.getnames()
    command[6] = str(MIB)
    small = subprocess.run(command, check=False, capture_output=True)
    assert small.returncode == UNUSABLE
    assert b"image_max_unpacked_gb" in small.stderr


def test_backing_file_is_refused(raw: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image = tmp_path / "child.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-b", raw, "-F", "raw", image)
    with pytest.raises(ValueError, match="backing file"):
        extract(image)


def test_unreplayed_journal_is_refused(raw: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image = tmp_path / "dirty.raw"
    data = bytearray(raw.read_bytes())
    data[START + 1024 + 0x60] |= 0x4
    image.write_bytes(data)
    with pytest.raises(ValueError, match="journal"):
        extract(image)


def test_other_file_system_is_named(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "xfs.raw"
    image.write_bytes(b"XFSB" + bytes(1 * MIB))
    with pytest.raises(ValueError, match="found: xfs"):
        extract(image)


def test_damaged_images_end_in_a_refusal_only(raw: pathlib.Path) -> None:
    """Whatever the bytes: either an archive or a ValueError, within bounds."""
    original = raw.read_bytes()
    generator = random.Random(11)
    refused = 0
    for _ in range(12):
        data = bytearray(original)
        for _ in range(generator.randrange(1, 200)):
            # the metadata at the start of the file system, where all structures are
            data[START + 1024 + generator.randrange(2 * MIB)] = generator.randrange(256)
        try:
            part = blocks.Part(blocks.Raw(io.BytesIO(data)), START, len(data) - START - MIB)
            system = ext4.FileSystem(part)
            archive.Writer(system, io.BytesIO(), 1 << 26).write()
        except ValueError:
            refused += 1
    assert refused > 0
