# SPDX-License-Identifier: Apache-2.0
"""Small images made in memory."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping

METADATA = b"""\
architecture: amd64
creation_date: 1600000000
expiry_date: 1900000000
properties:
  os: busy
  release: 1.10
templates:
  /etc/hostname:
    when: [create]
    template: hostname.tpl
"""


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar archive of these files, in order; ``mode`` as tarfile's (``w:gz``)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def unified(metadata: bytes = METADATA, mode: str = "w:gz", **more: bytes) -> bytes:
    """A unified image; ``more`` files make it another one."""
    return tar({"metadata.yaml": metadata, "rootfs/init": b"#!", **more}, mode)


def split(metadata: bytes = METADATA) -> tuple[bytes, bytes]:
    """Metadata and root of a split image."""
    return tar({"metadata.yaml": metadata}, "w:xz"), tar({"init": b"#!"}, "w:gz")


def sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
