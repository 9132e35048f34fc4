# SPDX-License-Identifier: Apache-2.0
"""What is sent to LXD for an image: one unified file, or generated metadata and a rootfs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
import platform
import tarfile

PIECE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Upload:
    """An image ready for LXD.

    :param path: the unified image, or the root file system
    :param metadata: the metadata tarball of a split image, None for a unified one
    """

    path: pathlib.Path
    metadata: bytes | None = None

    def fingerprint(self) -> str:
        """Return the fingerprint that LXD will give the image."""
        digest = hashlib.sha256(self.metadata or b"")
        with self.path.open("rb") as source:
            while piece := source.read(PIECE):
                digest.update(piece)
        return digest.hexdigest()


def split(path: pathlib.Path, description: str) -> Upload:
    """Return the upload of a bare root file system, with metadata made for it."""
    return Upload(path, metadata_tarball(description))


def metadata_tarball(description: str, architecture: str | None = None) -> bytes:
    """Return a tarball with the metadata.yaml of an image (JSON is YAML).

    The same description gives the same bytes, so that a fingerprint means a content.
    """
    content = json.dumps(
        {
            "architecture": architecture or platform.machine(),
            "creation_date": 1,  # LXD refuses an image that has none
            "properties": {"description": description},
        }
    ).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("metadata.yaml")
        member.size = len(content)
        member.mode = 0o644
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
