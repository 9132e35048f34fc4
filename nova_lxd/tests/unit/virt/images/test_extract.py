# SPDX-License-Identifier: Apache-2.0
"""Disk images: what mke2fs and qemu-img write comes out as it went in; broken ones are refused."""

from __future__ import annotations

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

from nova_lxd.tests.unit.virt.images import trees
from nova_lxd.virt.images.extract import archive, blocks, ext4, partitions, roots
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
    top = tmp_path_factory.mktemp("tree")
    trees.build(top)
    return top


def make(tree: pathlib.Path, target: pathlib.Path, *options: str) -> pathlib.Path:
    """Write a disk with one GPT partition that holds the tree."""
    system = target.with_suffix(".fs")
    system.unlink(missing_ok=True)
    run("mke2fs", "-q", "-F", "-d", tree, *options, system, "48M")
    value = target.with_suffix(".value")
    value.write_bytes(trees.CAPABILITY)
    run("debugfs", "-w", "-R", f"ea_set -f {value} /usr/bin/tool security.capability", system)
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
    trees.check_same(tree, trees.extract(make(tree, tmp_path / "disk.raw", *options)))


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
    trees.check_same(tree, trees.extract(image))


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
        trees.extract(image)


def test_unreplayed_journal_is_refused(raw: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image = tmp_path / "dirty.raw"
    data = bytearray(raw.read_bytes())
    data[START + 1024 + 0x60] |= 0x4
    image.write_bytes(data)
    with pytest.raises(ValueError, match="journal"):
        trees.extract(image)


def test_other_file_system_is_named(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "luks.raw"
    image.write_bytes(b"LUKS\xba\xbe" + bytes(1 * MIB))
    with pytest.raises(ValueError, match="found: LUKS"):
        trees.extract(image)


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
            archive.Writer(roots.Root(system), io.BytesIO(), 1 << 26).write()
        except ValueError:
            refused += 1
    assert refused > 0
