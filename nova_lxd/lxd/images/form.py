# SPDX-License-Identifier: Apache-2.0
"""Images as they go over the wire: a file, or a multipart form of metadata and root."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.images import formats
from nova_lxd.lxd.images.download import CHUNK
from nova_lxd.lxd.images.metadata import VIRTUAL_MACHINE


def suffix(path: Path) -> str:
    """The file name suffix that tells an image file's format; none when it is unknown.

    :raises NotFound: the file is gone.
    """
    try:
        return formats.detect(path).suffix
    except BadRequest:
        return ""
    except FileNotFoundError as exc:
        raise NotFound(f"Sending image {path.name} failed: its file is gone") from exc


@dataclass(frozen=True)
class FormPart:
    """One file of a multipart form and what stands before it."""

    head: bytes
    path: Path


class SplitForm:
    """A split image as LXD's servers and clients send it."""

    def __init__(self, image: Image, path: Path, rootfs: Path) -> None:
        self.boundary = secrets.token_hex(30)
        name = image.fingerprint
        root = "rootfs.img" if image.type == VIRTUAL_MACHINE else "rootfs"
        self.parts = (
            FormPart(self._head("metadata", f"meta-{name}{suffix(path)}"), path),
            FormPart(b"\r\n" + self._head(root, f"{name}{suffix(rootfs)}"), rootfs),
        )
        self.tail = f"\r\n--{self.boundary}--\r\n".encode()
        self.length = image.size + sum(len(part.head) for part in self.parts) + len(self.tail)

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.boundary}"

    def _head(self, name: str, filename: str) -> bytes:
        return (
            f"--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()

    def chunks(self) -> Iterator[bytes]:
        """The form in pieces of up to 1 MiB."""
        for part in self.parts:
            yield part.head
            yield from file_chunks(part.path)
        yield self.tail


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file in pieces of up to 1 MiB."""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            yield data
