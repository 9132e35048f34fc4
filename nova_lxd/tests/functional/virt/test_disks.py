# SPDX-License-Identifier: Apache-2.0
"""Disk images with xfs, btrfs and several partitions: what goes in comes out, unmounted."""

from __future__ import annotations

import io
import os
import pathlib
import random
import shutil
import subprocess
from typing import Any

import pytest

from nova_lxd.tests.functional.virt import busybox, disks, guests, world
from nova_lxd.tests.unit.virt.images import trees
from nova_lxd.virt import exception
from nova_lxd.virt.images.extract import archive, blocks

NEEDED = ("mkfs.xfs", "mkfs.btrfs", "mke2fs", "qemu-img", "sfdisk", "blkid")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not disks.available(*NEEDED), reason=f"one of {NEEDED} is missing"),
]

XFS = {
    "xfs": ("mkfs.xfs", "-q", "-L", "top"),
    "xfs-1k": ("mkfs.xfs", "-q", "-b", "size=1024"),
    "xfs-large-counters": ("mkfs.xfs", "-q", "-i", "nrext64=1,size=1024"),
    "xfs-old-times": ("mkfs.xfs", "-q", "-m", "bigtime=0,inobtcount=0", "-n", "size=16384"),
}
BTRFS = {
    "btrfs": (("mkfs.btrfs", "-q", "-L", "top"), ()),
    "btrfs-zstd": (("mkfs.btrfs", "-q"), ("compress-force=zstd",)),
    "btrfs-zlib": (("mkfs.btrfs", "-q", "-n", "4096", "-O", "^no-holes"), ("compress=zlib",)),
    "btrfs-lzo": (("mkfs.btrfs", "-q", "-d", "dup"), ("compress-force=lzo",)),
    "btrfs-mixed": (("mkfs.btrfs", "-q", "-M"), ()),
}


def fill(top: pathlib.Path) -> None:
    """Make the tree of the other readers' tests, and what these file systems do otherwise."""
    trees.build(top)
    tool = top / "usr/bin/tool"
    os.setxattr(tool, "security.capability", trees.CAPABILITY)
    os.setxattr(tool, "user.remote", b"r" * 3500)
    for index in range(40):  # more than fits beside the inode, or in one block
        os.setxattr(top / "many", f"user.number-{index}", b"%d" % index * 20)
    (top / "etc/longest").symlink_to("/" + "y" * 900)
    os.mkfifo(top / "pipe")
    (top / "text").write_text("the same again and again\n" * 20_000)
    generator = random.Random(3)
    with (top / "holes").open("wb") as target:
        for index in range(600):  # more extents than an inode holds
            target.seek(index * 16384)
            target.write(generator.randbytes(4096))
            if index % 7 == 0:  # keeps neighbours from being joined
                os.fsync(target.fileno())
    with (top / "reserved").open("wb") as target:
        os.posix_fallocate(target.fileno(), 0, 3 * trees.MIB)
        target.write(b"written")
    os.chown(top / "etc/os-release", 70000, 1234)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    top = tmp_path_factory.mktemp("tree")
    fill(top)
    return top


def filled(
    tree: pathlib.Path, image: pathlib.Path, mkfs: tuple[str, ...], options: tuple[str, ...] = ()
) -> pathlib.Path:
    disks.make(image, mkfs, 320)
    with disks.mounted(image, *options) as top:
        disks.run("cp", "-a", f"{tree}/.", top)
        os.utime(top)
    return image


@pytest.mark.parametrize("name", [*XFS, *BTRFS])
def test_comes_out_as_it_went_in(tree: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    mkfs, options = BTRFS[name] if name in BTRFS else (XFS[name], ())
    image = filled(tree, tmp_path / "disk.raw", mkfs, options)
    found = trees.extract(image)
    trees.check_same(tree, found)
    attributes = found.getmember("many").pax_headers
    assert attributes["SCHILY.xattr.user.number-7"] == "7" * 20
    assert len([key for key in attributes if key.startswith("SCHILY.xattr.user.")]) == 40
    remote = [found.getmember(f"usr/bin/{n}").pax_headers for n in ("tool", "alias")]
    assert "r" * 3500 in [headers.get("SCHILY.xattr.user.remote") for headers in remote]


def test_old_xfs(tmp_path: pathlib.Path) -> None:
    """Version 4, which new kernels do not mount any more: mkfs fills it."""
    big, listed = tmp_path / "big", tmp_path / "prototype"
    big.write_bytes(random.Random(1).randbytes(trees.MIB))
    many = "".join(f" file-{n} ---600 7 8 /dev/null\n" for n in range(300))
    listed.write_text(
        f"/boot\n0 0\nd--755 0 0\netc d--755 0 0\n{many} $\nusr d--750 3 4\n"
        f" big -u-755 0 0 {big}\n link l--777 0 0 big\n $\n$\n"
    )
    mkfs = ("mkfs.xfs", "-q", "-m", "crc=0", "-n", "ftype=0", "-p", str(listed))
    found = trees.extract(disks.make(tmp_path / "disk.raw", mkfs, 320))
    assert {f"etc/file-{n}" for n in range(300)} <= set(found.getnames())
    assert found.extractfile("usr/big").read() == big.read_bytes()
    assert found.getmember("usr/big").mode == 0o4755
    assert found.getmember("usr/link").linkname == "big"
    usr = found.getmember("usr")
    assert (usr.uid, usr.gid, usr.mode) == (3, 4, 0o750)


def test_subvolumes_come_together(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image = disks.make(tmp_path / "disk.raw", ("mkfs.btrfs", "-q"), 320)
    disks.subvolumes(image, lambda top: shutil.copytree(
        tree, top, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("pipe")
    ), "compress=zstd")  # fmt: skip
    found = trees.extract(image)
    names = set(found.getnames())
    assert {"home/user", "var/lib/state", "nested/file", "etc/after-the-snapshot"} <= names
    assert found.getmember("home/user").uid == 1000
    assert found.extractfile("var/lib/state").read() == b"kept in its own subvolume"
    assert not [name for name in names if name.startswith(("root/etc", "snapshot", "home/home"))]


@pytest.mark.parametrize("table", ["gpt", "dos"])
@pytest.mark.parametrize("by", ["UUID", "LABEL", "PARTUUID", "/dev/sda"])
def test_partitions_come_together(tmp_path: pathlib.Path, table: str, by: str) -> None:
    """EFI, /boot, /var and the root, which is the last, as RHEL's images have it."""
    boot = disks.make(tmp_path / "boot.raw", ("mke2fs", "-q", "-F"), 8)
    var = disks.make(tmp_path / "var.raw", ("mke2fs", "-q", "-F", "-L", "state"), 16)
    root = disks.make(tmp_path / "root.raw", ("mkfs.xfs", "-q"), 320)
    uuid = disks.run("blkid", "-s", "UUID", "-o", "value", var).strip()
    with disks.mounted(boot) as top:
        (top / "vmlinuz").write_text("a kernel")
    with disks.mounted(var) as top:
        (top / "state").write_text("from a partition")
    disk = disks.partitioned(tmp_path / "disk.raw", 4, boot, var, root, table=table)
    parts = disks.run("sfdisk", "-d", disk)
    if table == "gpt":
        line = next(line for line in parts.splitlines() if "disk.raw3" in line)
        partuuid = line.split("uuid=")[1].split(",")[0]
    else:
        signature = next(l for l in parts.splitlines() if l.startswith("label-id"))  # noqa: E741
        partuuid = f"{int(signature.split(': ')[1], 16):08x}-03"
    device = {
        "UUID": f"UUID={uuid}", "LABEL": "LABEL=state", "PARTUUID": f"PARTUUID={partuuid}",
        "/dev/sda": "/dev/sda3",
    }[by]  # fmt: skip
    with disks.mounted(root) as top:
        for name in ("etc", "usr", "var", "boot"):
            (top / name).mkdir()
        (top / "var/hidden").write_text("covered by the mount")
        (top / "etc/fstab").write_text(
            f"UUID=x / xfs defaults 0 0\n{device} /var ext4 defaults 0 0\n"
            "UUID=y /boot ext4 defaults 0 0\n/dev/sdb1 /mnt/data ext4 defaults 0 0\n"
        )
    with disk.open("r+b") as target:  # the root has changed since
        target.seek((1 + 4 + 8 + 16) * disks.MIB)
        target.write(root.read_bytes())
    names = set(trees.extract(disk).getnames())
    assert "var/state" in names and "var/hidden" not in names
    assert "boot" in names and "boot/vmlinuz" not in names, "a container has no use for it"


def test_logical_partitions(tmp_path: pathlib.Path) -> None:
    root = disks.make(tmp_path / "root.raw", ("mke2fs", "-q", "-F", "-L", "top"), 16)
    home = disks.make(tmp_path / "home.raw", ("mke2fs", "-q", "-F"), 8)
    with disks.mounted(root) as top:
        for name in ("etc", "usr", "home"):
            (top / name).mkdir()
        (top / "etc/fstab").write_text("/dev/vda6 /home ext4 defaults 0 0\n")
    with disks.mounted(home) as top:
        (top / "user").mkdir()
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as target:
        target.truncate(40 * disks.MIB)
    lines = (
        "label: dos",
        "1: start=1MiB, size=4MiB, type=83",
        "2: start=5MiB, size=34MiB, type=5",
        "5: start=6MiB, size=16MiB, type=83",
        "6: start=24MiB, size=8MiB, type=83",
    )
    disks.run("sfdisk", "-q", disk, stdin="\n".join(lines) + "\n")
    with disk.open("r+b") as target:
        for at, system in ((6, root), (24, home)):
            target.seek(at * disks.MIB)
            target.write(system.read_bytes())
    assert {"etc", "usr", "home/user"} <= set(trees.extract(disk).getnames())
    with disk.open("r+b") as target:  # a chain of tables without an end
        table = 5 * disks.MIB
        os.pwrite(target.fileno(), (1).to_bytes(4, "little"), table + 446 + 16 + 8)
        os.pwrite(target.fileno(), os.pread(target.fileno(), 512, table), table + 512)
    with pytest.raises(ValueError, match=r"/home is on /dev/vda6, which is not in the image"):
        trees.extract(disk)


def test_missing_part_of_the_system_is_said(tmp_path: pathlib.Path) -> None:
    root = disks.make(tmp_path / "root.raw", ("mkfs.xfs", "-q"), 320)
    with disks.mounted(root) as top:
        (top / "etc").mkdir()
        (top / "usr").mkdir()
        (top / "etc/fstab").write_text("LABEL=elsewhere /var ext4 defaults 0 0\n")
    with pytest.raises(ValueError, match="its /var is on LABEL=elsewhere"):
        trees.extract(root)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_file_system_in_use_is_refused(tmp_path: pathlib.Path, kind: str) -> None:
    """A copy of a disk that was not unmounted: what its log has is in no tree yet."""
    image = disks.make(tmp_path / "disk.raw", (f"mkfs.{kind}", "-q"), 320)
    copy = tmp_path / "copy.raw"
    with disks.mounted(image) as top:
        (top / "etc").mkdir()
        (top / "usr").mkdir()
        os.sync()
        with (top / "etc/late").open("w") as late:
            late.write("logged")
            late.flush()
            os.fsync(late.fileno())
        shutil.copy(image, copy)
    with pytest.raises(ValueError, match="not unmounted"):
        trees.extract(copy)
    assert "etc/late" in trees.extract(image).getnames()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_damage_ends_in_a_refusal_only(tmp_path: pathlib.Path, kind: str) -> None:
    """Whatever the bytes: an archive or a ValueError, within bounds of time and memory."""
    image = disks.make(tmp_path / "disk.raw", (f"mkfs.{kind}", "-q"), 320)
    with disks.mounted(image) as top:
        trees.build(top)
        (top / "sparse").unlink()
    generator = random.Random(5)
    places = structures(image, kind)
    refused = 0
    for _ in range(25):
        with image.open("r+b") as disk:
            changed = {generator.choice(places) + generator.randrange(512) for _ in range(30)}
            before = {at: os.pread(disk.fileno(), 1, at) for at in changed}
            for at in changed:
                os.pwrite(disk.fileno(), bytes([generator.randrange(256)]), at)
            try:
                root = archive.find_root(blocks.open_disk(disk))
                archive.Writer(root, io.BytesIO(), 1 << 25).write()
            except ValueError:
                refused += 1
            for at, value in before.items():
                os.pwrite(disk.fileno(), value, at)
    assert refused > 0
    assert "etc/os-release" in trees.extract(image).getnames(), "whole again"


def structures(image: pathlib.Path, kind: str) -> list[int]:
    """Return where a file system's own structures begin, its superblock included."""
    found = []
    with image.open("rb") as disk:
        identity = os.pread(disk.fileno(), 16, 0x10020)  # of a btrfs; each node has it
        at = 0
        while piece := disk.read(trees.MIB):
            for offset in range(0, len(piece), 512):
                head = piece[offset : offset + 48]
                if kind == "btrfs":
                    wanted = head[32:] == identity
                else:
                    wanted = head[:2] == b"IN" or head[:3] in (b"XDB", b"XDD", b"XFS", b"XSL")
                if wanted:
                    found.append(at + offset)
            at += len(piece)
    return found


def boots(driver: Any, context: Any, glance: Any, data: bytes) -> None:
    image = glance.add(data)
    instance = world.instance(image, 81)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, world.network_info(0))
    try:
        owner = guests.run(driver, instance, "stat", "-c", "%u:%g %a", "/etc/shadow")
        assert owner.split() == ["0:0", "600"]
    finally:
        driver.destroy(context, instance, [])


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_server_boots_from_it(
    driver: Any, context: Any, glance: Any, tmp_path: pathlib.Path, kind: str
) -> None:
    """A whole cloud image: qcow2, GPT, EFI, /boot, and the root as the distribution has it."""

    def unpack(top: pathlib.Path) -> None:
        subprocess.run(["tar", "-xf", "-", "-C", top], input=busybox.rootfs(), check=True)

    root = disks.make(tmp_path / "root.raw", (f"mkfs.{kind}", "-q"), 320)
    if kind == "btrfs":
        disks.subvolumes(root, unpack, "compress=zstd:1")
    else:
        with disks.mounted(root) as top:
            unpack(top)
    disk = disks.partitioned(tmp_path / "disk.raw", 4, 8, root, table="gpt")
    disks.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", disk, tmp_path / "q")
    boots(driver, context, glance, (tmp_path / "q").read_bytes())


def test_encrypted_root_says_what_it_is(driver: Any, context: Any, glance: Any) -> None:
    data = b"LUKS\xba\xbe" + bytes(504) + b"\x55\xaa" + bytes(disks.MIB)
    image = glance.add(data[:510] + b"\x55\xaa" + data[512:])
    with pytest.raises(exception.ImageNotUsable, match="LUKS"):
        driver.images.ensure(context, image)
