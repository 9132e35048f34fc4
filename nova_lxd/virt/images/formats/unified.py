# SPDX-License-Identifier: Apache-2.0
"""LXD's own unified image, as ``lxc image export`` or a snapshot makes it: passed on as it is."""

from __future__ import annotations

import pathlib
from typing import Any

from nova_lxd.virt.images.formats import archive
from nova_lxd.virt.images.upload import Upload

METADATA = "metadata.yaml"
LOOK_AT = 64  # members; LXD writes metadata.yaml first


def matches(head: bytes, path: pathlib.Path) -> bool:
    """Tell by a metadata.yaml among the first members."""
    if not archive.is_archive(head):
        return False
    try:
        return METADATA in archive.first_names(path, head, LOOK_AT)
    except ValueError:
        return False


def prepare(path: pathlib.Path, work: pathlib.Path, conf: Any) -> Upload:
    """Check it.

    :raises ValueError: the archive is broken, or holds no root file system
    """
    if "rootfs" not in archive.check_whole(path, conf.image_max_unpacked_gb << 30):
        raise ValueError("it is the image of a virtual machine, or lacks its rootfs directory")
    return Upload(path)
