# SPDX-License-Identifier: Apache-2.0
"""Taking in an image as it comes: one file as it is, or metadata and root as a multipart form.

The same code takes in uploads and what another LXD server sends; it is fed from worker threads.
"""

from __future__ import annotations

import email.message
import email.parser
from typing import Protocol

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.metadata import CONTAINER, VIRTUAL_MACHINE
from nova_lxd.lxd.images.store import StagedFile, Staging

#: The longest headers of one part, and the longest text before the first one.
MAX_PART_HEADER = 16 * 1024
_TYPES = {"rootfs": CONTAINER, "rootfs.img": VIRTUAL_MACHINE}


class Receiver(Protocol):
    """Takes the bytes of a body in order and fills a :class:`Staging`."""

    def feed(self, data: bytes | bytearray) -> None:
        """The next bytes of the body.

        :raises BadRequest: they are no image.
        :raises NoSpace: the disk is full.
        """

    def finish(self) -> None:
        """The body has ended.

        :raises BadRequest: it was not complete.
        """


class RawReceiver:
    """A unified image, or the metadata file of a split one."""

    def __init__(self, staging: Staging, filename: str) -> None:
        staging.filename = filename
        self._file = staging.open_image()

    def feed(self, data: bytes | bytearray) -> None:
        self._file.write(data)

    def finish(self) -> None:
        self._file.flush()


class MultipartReceiver:
    """A split image as LXD's clients send it: part ``metadata``, then ``rootfs[.img]``."""

    def __init__(self, staging: Staging, boundary: str) -> None:
        self._staging = staging
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        # The first delimiter may stand at the very start, without the line end before it.
        self._buffer = bytearray(b"\r\n")
        self._advance = self._in_preamble
        self._file: StagedFile | None = None
        self._ended = False

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data
        while self._advance():
            pass

    def finish(self) -> None:
        if not self._ended or self._staging.rootfs is None:
            raise BadRequest("Receiving the image failed: the multipart body is not complete")

    def _in_preamble(self) -> bool:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            self._limit("has no first part")
            return False
        del self._buffer[: at + len(self._delimiter)]
        self._advance = self._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        if self._buffer[:2] == b"--":
            self._ended = True
            self._advance = self._in_epilogue
            return True
        end = self._buffer.find(b"\r\n")
        if end < 0:
            self._limit("has a damaged delimiter")
            return False
        if self._buffer[:end].strip():
            raise BadRequest("Invalid multipart image")
        del self._buffer[:end]  # the line end stays: a part may have no headers
        self._advance = self._in_headers
        return True

    def _in_headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            self._limit("has too long headers")
            return False
        if end > MAX_PART_HEADER:
            raise BadRequest("Receiving the image failed: the multipart body has too long headers")
        headers = email.parser.BytesHeaderParser().parsebytes(bytes(self._buffer[2 : end + 2]))
        self._open(headers)
        del self._buffer[: end + 2]  # the line end stays: an empty part is followed by a delimiter
        self._skip_line_end = True
        self._advance = self._in_body
        return True

    def _open(self, headers: email.message.Message) -> None:
        name = headers.get_param("name", header="content-disposition")
        if self._staging.image is None and name == "metadata":
            self._file = self._staging.open_image()
        elif self._staging.image is not None and self._staging.rootfs is None and name in _TYPES:
            self._staging.type = _TYPES[str(name)]
            self._staging.filename = headers.get_filename() or ""
            self._file = self._staging.open_rootfs()
        else:
            raise BadRequest("Invalid multipart image")

    def _in_body(self) -> bool:
        assert self._file is not None
        at = self._buffer.find(self._delimiter)
        start = 2 if self._skip_line_end else 0
        end = at if at >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if end > start:
            with memoryview(self._buffer) as view:
                self._file.write(view[start:end])
            self._skip_line_end = False
            if at < 0:
                del self._buffer[:end]
        if at < 0:
            return False
        del self._buffer[: at + len(self._delimiter)]
        self._file.flush()
        self._file = None
        self._advance = self._after_delimiter
        return True

    def _in_epilogue(self) -> bool:
        self._buffer.clear()
        return False

    def _limit(self, why: str) -> None:
        if len(self._buffer) > MAX_PART_HEADER:
            raise BadRequest(f"Receiving the image failed: the multipart body {why}")


def receiver(staging: Staging, content_type: str, filename: str = "") -> Receiver:
    """The receiver for a body of this content type.

    :raises BadRequest: it is a multipart body without a boundary.
    """
    header = email.message.Message()
    header["content-type"] = content_type or "application/octet-stream"
    if header.get_content_type() != "multipart/form-data":
        return RawReceiver(staging, filename)
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 200:
        raise BadRequest("Receiving the image failed: the multipart body has no boundary")
    return MultipartReceiver(staging, boundary)
