# SPDX-License-Identifier: Apache-2.0
"""Image files: LXD_DIR/images/FINGERPRINT, and FINGERPRINT.rootfs beside it for a split image.

What is being received is in a directory ``lxd_build_*`` of its own until it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nova_lxd.lxd.errors import InternalError, LXDError, NoSpace

LOG = logging.getLogger(__name__)
_BUILD_PREFIX = "lxd_build_"
_IMAGE_FILE = re.compile(r"([0-9a-f]{64})(\.rootfs)?")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(what: str, exc: OSError) -> LXDError:
    """The error for a write to the image store that failed."""
    if exc.errno in _FULL:
        return NoSpace(f"{what} failed: {exc.strerror}; free some space in the images directory")
    return InternalError(f"{what} failed: {exc}")


class StagedFile:
    """A file in the making; what is written counts for the image's fingerprint."""

    def __init__(self, path: Path, file: BinaryIO, digest: hashlib._Hash) -> None:
        self.path = path
        self.size = 0
        self._file = file
        self._digest = digest

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append.

        :raises NoSpace: the disk is full.
        """
        try:
            self._file.write(data)
        except OSError as exc:
            raise disk_error("Writing the image", exc) from exc
        self._digest.update(data)
        self.size += len(data)

    def flush(self) -> None:
        """Let readers of :attr:`path` see all that was written."""
        try:
            self._file.flush()
        except OSError as exc:
            raise disk_error("Writing the image", exc) from exc

    def sync(self) -> None:
        """Let the content survive a power failure."""
        self.flush()
        try:
            os.fdatasync(self._file.fileno())
        except OSError as exc:
            raise disk_error("Writing the image", exc) from exc

    def close(self) -> None:
        with contextlib.suppress(OSError):  # sync() tells what matters
            self._file.close()


class Staging:
    """The files of one image that is being received: metadata (or all of it), then the root.

    The caller writes them one after the other and calls :meth:`Store.commit`, or :meth:`discard`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.image: StagedFile | None = None
        self.rootfs: StagedFile | None = None
        self.filename = ""
        self.type: str | None = None
        self._digest = hashlib.sha256()

    def _open(self, name: str) -> StagedFile:
        path = self.directory / name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise disk_error("Writing the image", exc) from exc
        return StagedFile(path, os.fdopen(descriptor, "wb"), self._digest)

    def open_image(self) -> StagedFile:
        """Begin with the unified image, or the metadata of a split one."""
        self.image = self._open("image")
        return self.image

    def open_rootfs(self) -> StagedFile:
        """Go on with the root of a split image."""
        self.rootfs = self._open("rootfs")
        return self.rootfs

    @property
    def files(self) -> list[StagedFile]:
        return [file for file in (self.image, self.rootfs) if file is not None]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that was written so far."""
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Remove what was received; idempotent."""
        for file in self.files:
            file.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Store:
    """The images directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, fingerprint: str) -> Path:
        """The unified image, or the metadata of a split one."""
        return self.root / fingerprint

    def rootfs(self, fingerprint: str) -> Path | None:
        """The root of a split image, None when the image is unified."""
        path = self.root / f"{fingerprint}.rootfs"
        return path if path.exists() else None

    def has(self, fingerprint: str) -> bool:
        return self.path(fingerprint).exists()

    def stage(self) -> Staging:
        """Begin to receive an image; the caller commits or discards it.

        :raises NoSpace: the disk is full.
        """
        try:
            return Staging(Path(tempfile.mkdtemp(prefix=_BUILD_PREFIX, dir=self.root)))
        except OSError as exc:
            raise disk_error("Receiving an image", exc) from exc

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """:meth:`stage` for a block; what the block did not commit is discarded."""
        staged = self.stage()
        try:
            yield staged
        finally:
            staged.discard()

    def commit(self, staged: Staging) -> None:
        """Give the files their final names; the fingerprint's lock is held.

        :raises NoSpace: the disk is full.
        """
        fingerprint = staged.fingerprint
        for file in staged.files:
            file.sync()
        try:
            # The metadata's name comes last: it is what tells that the image is there.
            if staged.rootfs is not None:
                staged.rootfs.path.rename(self.root / f"{fingerprint}.rootfs")
            if staged.image is not None:
                staged.image.path.rename(self.path(fingerprint))
            self._sync_directory()
        except OSError as exc:
            self.remove(fingerprint)
            raise disk_error(f"Storing image {fingerprint}", exc) from exc

    def _sync_directory(self) -> None:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, fingerprint: str) -> None:
        """Remove an image's files; idempotent."""
        self.path(fingerprint).unlink(missing_ok=True)
        (self.root / f"{fingerprint}.rootfs").unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> None:
        """Make the directory, and remove what a killed daemon left in it.

        :param known: the fingerprints that the database has.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self.root.iterdir():
            match = _IMAGE_FILE.fullmatch(path.name)
            if path.name.startswith(_BUILD_PREFIX) and path.is_dir():
                LOG.info("Removing unfinished image %s", path.name)
                shutil.rmtree(path)
            elif match and match[1] not in known:
                LOG.info("Removing image file %s that no project has", path.name)
                path.unlink(missing_ok=True)
