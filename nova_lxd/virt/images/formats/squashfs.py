# SPDX-License-Identifier: Apache-2.0
"""A root file system as squashfs: LXD takes it as it is."""

from __future__ import annotations

import pathlib
from typing import Any

from nova_lxd.virt.images.upload import Upload, split

MAGIC = b"hsqs"


def matches(head: bytes, path: pathlib.Path) -> bool:
    """Tell by the magic at the start."""
    return head.startswith(MAGIC)


def prepare(path: pathlib.Path, work: pathlib.Path, conf: Any) -> Upload:
    """Add metadata; nothing is unpacked here."""
    return split(path, "root file system (squashfs) from Glance")
