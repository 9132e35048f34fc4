# SPDX-License-Identifier: Apache-2.0
"""Source formats of images, told apart by content and never by name.

Each format is a module with ``matches(head, path)`` and ``prepare(path, work, describe)``; they
are tried in the order of :data:`FORMATS`.
"""

from __future__ import annotations

import pathlib
from typing import Any, Protocol

from nova_lxd.virt.images.formats import disk, squashfs, tarball, unified
from nova_lxd.virt.images.upload import Upload

HEAD = 64 * 1024  # bytes that tell a format


class Format(Protocol):
    """What a format module offers."""

    def matches(self, head: bytes, path: pathlib.Path) -> bool:
        """Tell whether the file is of this format."""

    def prepare(self, path: pathlib.Path, work: pathlib.Path, conf: Any) -> Upload:
        """Turn the file into what LXD takes, with scratch files in ``work``.

        :raises ValueError: with the reason why it cannot
        """


FORMATS: dict[str, Format] = {
    "squashfs": squashfs,
    "unified": unified,
    "tarball": tarball,
    "disk": disk,
}


def detect(path: pathlib.Path) -> Format:
    """Return the format of a file.

    :raises ValueError: it is none that we know
    """
    with path.open("rb") as source:
        head = source.read(HEAD)
    for module in FORMATS.values():
        if module.matches(head, path):
            return module
    raise ValueError(
        "it is neither an LXD image, a root file system as tar or squashfs, nor a qcow2 or raw"
        " disk with a root partition"
    )
