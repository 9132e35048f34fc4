# SPDX-License-Identifier: Apache-2.0
"""A cloud disk image, qcow2 or raw: its root file system becomes a tar archive.

The reading is done by :mod:`nova_lxd.virt.images.extract` in a process of its own.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

from nova_lxd.virt.images.extract import partitions, roots
from nova_lxd.virt.images.extract.__main__ import UNUSABLE
from nova_lxd.virt.images.extract.blocks import QCOW2_MAGIC, Part, Raw
from nova_lxd.virt.images.upload import Upload, split


def matches(head: bytes, path: pathlib.Path) -> bool:
    """Tell by qcow2's magic, a partition table, or a file system without one."""
    if head.startswith(QCOW2_MAGIC) or head[510:512] == partitions.MBR_SIGNATURE:
        return True
    with path.open("rb") as source:
        disk = Raw(source)
        whole = Part(disk, 0, disk.size)
        return any(module.is_here(whole) for module in roots.KINDS.values())


def prepare(path: pathlib.Path, work: pathlib.Path, conf: Any) -> Upload:
    """Read the root file system out of the disk.

    :raises ValueError: the disk has none that is read here, or is broken, or too large
    """
    target = work / "rootfs.tar"
    child = subprocess.run(
        [
            sys.executable, "-m", "nova_lxd.virt.images.extract", str(path), str(target),
            "--max-bytes", str(conf.image_max_unpacked_gb << 30),
            "--cpu-seconds", str(conf.image_convert_cpu_seconds),
        ],
        capture_output=True,
        check=False,
    )  # fmt: skip
    path.unlink()  # room for what comes next; the archive is all that is needed
    if child.returncode == UNUSABLE:
        raise ValueError(child.stderr.decode(errors="replace"))
    if child.returncode:
        why = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(f"reading the disk ended with code {child.returncode}: {why}")
    return split(target, "root file system of a disk image from Glance")
