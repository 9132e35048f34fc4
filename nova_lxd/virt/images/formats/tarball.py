# SPDX-License-Identifier: Apache-2.0
"""A root file system as a tar archive (plain, gz, bz2, xz, zst): LXD takes it as it is."""

from __future__ import annotations

import pathlib
from typing import Any

from nova_lxd.virt.images.formats import archive
from nova_lxd.virt.images.upload import Upload, split

# A root has at least one of these at its top.
ROOT_ENTRIES = {"bin", "sbin", "etc", "usr", "init", "linuxrc"}


def matches(head: bytes, path: pathlib.Path) -> bool:
    """Tell by the archive's magic."""
    return archive.is_archive(head)


def prepare(path: pathlib.Path, work: pathlib.Path, conf: Any) -> Upload:
    """Check that it is a root file system, and add metadata.

    :raises ValueError: the archive is broken, or holds no root file system
    """
    if archive.check_whole(path, conf.image_max_unpacked_gb << 30) & ROOT_ENTRIES:
        return split(path, "root file system (tar) from Glance")
    raise ValueError(
        "its archive holds no root file system: none of "
        + ", ".join(sorted(ROOT_ENTRIES))
        + " is at the top"
    )
