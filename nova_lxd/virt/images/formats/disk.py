# SPDX-License-Identifier: Apache-2.0
"""A cloud disk image, qcow2 or raw: its root file system becomes a tar archive.

The reading is done by :mod:`nova_lxd.virt.images.extract` in a process of its own.
"""

from __future__ import annotations

import pathlib
from typing import Any

from nova_lxd.virt.images.upload import Upload


def matches(head: bytes, path: pathlib.Path) -> bool:
    """Tell by qcow2's magic, a partition table or an ext4 superblock."""
    return False


def prepare(path: pathlib.Path, work: pathlib.Path, conf: Any) -> Upload:
    """Read the root file system out of the disk."""
    raise ValueError("disk images are not read yet")
