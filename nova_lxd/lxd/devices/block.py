# SPDX-License-Identifier: Apache-2.0
"""Block devices for disks: the file system on one, the one below a path, and I/O limits."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nova_lxd.lxd.devices.interface import BlockLimit
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.host.run import run
from nova_lxd.lxd.network import values

_NO_FILESYSTEM = 2
_IOPS = "iops"


def rate(value: str) -> None:
    """Check of ``limits.read`` and kin: bytes per second, or operations per second as Niops."""
    if value.endswith(_IOPS):
        if not value.removesuffix(_IOPS).isdigit():
            raise ValueError(f"Invalid value for an integer {values.quoted(value)}")
        return
    values.parse_bytes(value)


def _parse(value: str) -> tuple[int, int]:
    """(bytes, operations) per second of a limit."""
    if value.endswith(_IOPS):
        return 0, int(value.removesuffix(_IOPS))
    return (values.parse_bytes(value) if value else 0), 0


def limits(config: Mapping[str, str]) -> BlockLimit | None:
    """The limits of a disk's configuration, without a device yet; None when it has none."""
    both = config.get("limits.max", "")
    read = _parse(both or config.get("limits.read", ""))
    write = _parse(both or config.get("limits.write", ""))
    if not any((*read, *write)):
        return None
    return BlockLimit(0, 0, read[0], read[1], write[0], write[1])


def limits_of(path: Path, wanted: BlockLimit | None) -> list[BlockLimit]:
    """The limits for the disk that ``path`` is stored on; lifted when None.

    :raises BadRequest: it is on no block device (a network or memory file system).
    """
    major, minor = whole_disk(path)
    return [replace(wanted or BlockLimit(0, 0), major=major, minor=minor)]


def whole_disk(path: Path) -> tuple[int, int]:
    """Major and minor number of the disk (not partition) that holds ``path``."""
    info = path.stat()
    number = info.st_rdev if stat.S_ISBLK(info.st_mode) else info.st_dev
    if os.major(number) == 0:
        # Of btrfs and the like, stat tells an anonymous device: the mount names the real one.
        source = _mount_source(path)
        if source is None:
            raise BadRequest(
                f"Limiting the I/O of {path} failed: it is not stored on a block device;"
                " leave the disk's limits out"
            )
        number = source.stat().st_rdev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if (entry / "partition").exists():
        major, minor = (entry.parent / "dev").read_text().strip().split(":")
        return int(major), int(minor)
    return os.major(number), os.minor(number)


def _mount_source(path: Path) -> Path | None:
    resolved = path.resolve()
    by_target = {entry.target: entry for entry in mounts.mounts()}
    for directory in (resolved, *resolved.parents):
        entry = by_target.get(str(directory))
        if entry is not None:
            source = Path(entry.source)
            return source if source.is_block_device() else None
    return None


def mount(source: Path, target: Path, *, readonly: bool, options: str) -> None:
    """Mount the file system on a block device.

    :param options: further options of mount(8).
    :raises BadRequest: there is no file system on it that the kernel knows.
    """
    probe = run(["blkid", "-p", "-s", "TYPE", "-o", "value", str(source)], check=False, timeout=60)
    kind = probe.text.strip()
    if probe.returncode == _NO_FILESYSTEM or not kind:
        raise BadRequest(
            f"Mounting block device {source} failed: no file system was found on it; make one"
        )
    given = [*values.split_list(options), *(["ro"] if readonly else [])]
    command = ["mount", "-t", kind, *(["-o", ",".join(given)] if given else [])]
    run([*command, "--", str(source), str(target)], timeout=120)
