# SPDX-License-Identifier: Apache-2.0
"""Which of a disk's file systems is the root, and what its fstab mounts below it.

Distributions spread a system over partitions (/boot, /var) and btrfs subvolumes (root, home, var):
a container gets the whole tree, but for what only a machine needs.
"""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Iterator
from typing import Any

from nova_lxd.virt.images.extract import btrfs, ext4, files, partitions, xfs
from nova_lxd.virt.images.extract.blocks import Blocks, Part

KINDS = {"ext2, ext3, ext4": ext4, "xfs": xfs, "btrfs": btrfs}
MAX_FSTAB = 1 << 16
# Kernel and boot loader, what the container manager mounts, and snapshots of the root.
NOT_WANTED = ("boot", "efi", "dev", "proc", "sys", "run", "tmp", ".snapshots")
# A root without one of these would be a broken one; other mounts may be somebody's data disks.
SYSTEM = ("usr", "var", "opt", "srv", "home", "root", "etc")


@dataclasses.dataclass(frozen=True)
class Volume:
    """A file system of the disk, and the partition it is in."""

    part: Part
    system: files.FileSystem


@dataclasses.dataclass(frozen=True)
class Root:
    """A root file system.

    :param mounts: what is mounted where, by the path without its first slash
    """

    system: files.FileSystem
    mounts: dict[str, files.FileSystem] = dataclasses.field(default_factory=dict)


def find(disk: Blocks) -> Root:
    """Return the root that a disk holds.

    :raises ValueError: there is none that is read here; says what was found
    """
    volumes, others = [], set()
    for part in partitions.parts(disk):
        kinds = [module for module in KINDS.values() if module.is_here(part)]
        if kinds:
            volumes.append(Volume(part, kinds[0].FileSystem(part)))
        else:
            others.add(partitions.other_content(part))
    for volume in volumes:
        for system in volume.system.roots():
            if _is_root(system):
                return Root(system, dict(_mounts(system, volumes)))
    names = ", ".join(sorted(name for name in others if name))
    raise ValueError(
        f"no partition holds a root file system of the kind {', '.join(KINDS)}"
        + (f"; found: {names}" if names else "")
    )


def _is_root(system: files.FileSystem) -> bool:
    names = {name for name, _ in system.entries(system.inode(system.root))}
    return b"etc" in names and bool(names & {b"usr", b"bin", b"sbin"})


def _mounts(
    system: files.FileSystem, volumes: list[Volume]
) -> Iterator[tuple[str, files.FileSystem]]:
    for device, path, options in _fstab(system):
        top = path.split("/")[0]
        if not path or top in NOT_WANTED:
            continue
        volume = next((found for found in volumes if _is_named(found, device)), None)
        if volume is not None:
            yield path, volume.system.subvolume(options)
        elif top in SYSTEM and not {"noauto", "nofail"} & set(options):
            raise ValueError(f"its /{path} is on {device}, which is not in the image")


def _is_named(volume: Volume, device: str) -> bool:
    """Tell whether fstab means this file system."""
    key, _, value = device.partition("=")
    value = value.strip('"')
    if device.startswith("/dev/disk/by-"):
        key, _, value = device.removeprefix("/dev/disk/by-").partition("/")
    names = {
        "uuid": volume.system.uuid,
        "label": volume.system.label,
        "partuuid": volume.part.uuid,
    }
    known = names.get(key.lower())
    if known is not None:
        return bool(known) and known.lower() == value.lower()
    # /dev/sda1, /dev/vda1, /dev/nvme0n1p1: whatever disk it was, it has one only
    digits = device[len(device.rstrip("0123456789")) :]
    return device.startswith("/dev/") and digits == str(volume.part.number)


def _fstab(system: files.FileSystem) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Return fstab's mounts: (device, path without slashes around it, options)."""
    found = _lookup(system, b"etc", b"fstab")
    if found is None or not stat.S_ISREG(found.mode) or found.size > MAX_FSTAB:
        return
    text = b"".join(system.content(found)).decode(errors="replace")
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) >= 3 and words[1].startswith("/"):
            options = dict(
                option.partition("=")[::2]
                for option in (words[3] if len(words) > 3 else "").split(",")
            )
            yield words[0], words[1].strip("/"), options


def _lookup(system: files.FileSystem, *names: bytes) -> Any:
    """Return the inode of a path; None when it is not there."""
    inode = system.inode(system.root)
    for name in names:
        number = dict(system.entries(inode)).get(name) if stat.S_ISDIR(inode.mode) else None
        if number is None:
            return None
        inode = system.inode(number)
    return inode
