# SPDX-License-Identifier: Apache-2.0
"""Disk images as distributions publish them, made by the real tools and this kernel."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
MIB = 1 << 20
Fill = Callable[[pathlib.Path], None]


def run(*command: object, stdin: str = "") -> str:
    """Run a program; return its output, and show what it said when it fails."""
    done = subprocess.run(
        list(map(str, command)),
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH},
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def available(*programs: str) -> bool:
    """Tell whether the host has all of these."""
    return all(shutil.which(program, path=PATH) for program in programs)


@contextlib.contextmanager
def mounted(image: pathlib.Path, *options: str) -> Iterator[pathlib.Path]:
    """Mount a file system that this test has made itself."""
    target = image.with_suffix(".mnt")
    target.mkdir(exist_ok=True)
    run("mount", "-o", ",".join(("loop", *options)), image, target)
    try:
        yield target
    finally:
        run("umount", target)
        target.rmdir()


def make(image: pathlib.Path, mkfs: tuple[str, ...], size_mib: int) -> pathlib.Path:
    """Make an empty file system in a file."""
    with image.open("wb") as disk:
        disk.truncate(size_mib * MIB)
    run(*mkfs, image)
    return image


def subvolumes(image: pathlib.Path, fill: Fill, *options: str) -> None:
    """Fill a btrfs as Fedora does: root, home and var are subvolumes that fstab brings together.

    A snapshot of the root lies beside it, as snapper makes them; it must not be taken.
    """
    uuid = run("blkid", "-s", "UUID", "-o", "value", image).strip()
    with mounted(image, *options) as top:
        for name in ("home", "var", "root"):
            run("btrfs", "subvolume", "create", top / name)
        fill(top / "root")
        shutil.rmtree(top / "root/var", ignore_errors=True)
        (top / "root/var").mkdir()
        (top / "root/home").mkdir()
        (top / "home/user").mkdir()
        os.chown(top / "home/user", 1000, 1000)
        (top / "var/lib").mkdir(mode=0o755)
        (top / "var/lib/state").write_text("kept in its own subvolume")
        run("btrfs", "subvolume", "create", top / "root/nested")
        (top / "root/nested/file").write_text("below the root without fstab")
        (top / "root/etc/fstab").write_text(
            f"UUID={uuid} / btrfs subvol=root,compress=zstd:1 0 0\n"
            f"UUID={uuid} /home btrfs subvol=home,compress=zstd:1 0 0\n"
            f"UUID={uuid} /var btrfs subvol=var 0 0\n"
            "UUID=aaaa-bbbb /boot/efi vfat defaults 0 2\n"
        )
        run("btrfs", "subvolume", "snapshot", "-r", top / "root", top / "snapshot")
        (top / "root/etc/after-the-snapshot").write_text("")


def partitioned(target: pathlib.Path, *systems: pathlib.Path | int, table: str) -> pathlib.Path:
    """Join file systems, or empty space of some MiB, to a disk with a partition table."""
    sizes = [s if isinstance(s, int) else s.stat().st_size // MIB for s in systems]
    with target.open("wb") as disk:
        disk.truncate((sum(sizes) + 2) * MIB)
    lines, at = [f"label: {table}"], 1
    for size in sizes:
        lines.append(f"start={at}MiB, size={size}MiB, type=L")
        at += size
    run("sfdisk", "-q", target, stdin="\n".join(lines) + "\n")
    at = 1
    with target.open("r+b") as disk:
        for system, size in zip(systems, sizes, strict=True):
            if isinstance(system, pathlib.Path):
                disk.seek(at * MIB)
                disk.write(system.read_bytes())
            at += size
    return target
