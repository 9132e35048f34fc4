# SPDX-License-Identifier: Apache-2.0
"""The image files that the tempest plug-in boots: one tiny system in every form there is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cloud.context import Cloud
from cloud.layout import REPOSITORY
from cloud.run import run

DISK_SIZE = "48M"


def prepare(cloud: Cloud) -> Path:
    """Make what is missing; returns the directory."""
    directory = cloud.data("tempest-images")
    log = cloud.log("step-tempest")
    archive, squashfs, disk, qcow2 = (
        directory / f"busybox.{kind}" for kind in ("tar.gz", "squashfs", "img", "qcow2"))
    if not (archive.exists() and squashfs.exists()):
        built = run((REPOSITORY / "tools/images/build", "busybox", "--cache", cloud.layout.images,
                     "--artifact", "rootfs.tar.gz", "--artifact", "rootfs.squashfs"), log=log)
        for source, target in zip(built.split(), (archive, squashfs), strict=True):
            shutil.copyfile(source, target)
    if not disk.exists():
        make_disk(archive, disk, log)
    if not qcow2.exists():
        run(("qemu-img", "convert", "-O", "qcow2", "-c", disk, qcow2), log=log,
            remedy="install Debian's qemu-utils")
    return directory


def make_disk(archive: Path, disk: Path, log: Path) -> None:
    """A disk that is one ext4 file system with the content of a tar archive."""
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        run(("tar", "-C", scratch, "--numeric-owner", "-xzf", archive), log=log)
        unfinished = disk.with_suffix(".part")
        run(("mke2fs", "-q", "-F", "-t", "ext4", "-d", scratch, unfinished, DISK_SIZE), log=log)
        unfinished.rename(disk)
