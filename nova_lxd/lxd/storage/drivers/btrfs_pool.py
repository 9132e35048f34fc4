# SPDX-License-Identifier: Apache-2.0
"""Making, mounting and removing btrfs pools: on a loop file, a block device or a directory."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest, Conflict, InternalError
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.host.run import ProgramError, run
from nova_lxd.lxd.schema.sizes import parse_size
from nova_lxd.lxd.storage import loop
from nova_lxd.lxd.storage.drivers import btrfs_ioctl as ioctl
from nova_lxd.lxd.storage.drivers.generic import TreeDriver

_DEFAULT_OPTIONS = "user_subvol_rm_allowed"
# mkfs.btrfs refuses less; LXD's default is a fifth of the free space within these bounds.
_LEAST_SIZE = 114294784
_DEFAULT_LEAST, _DEFAULT_MOST = 5 * 1024**3, 30 * 1024**3


class BtrfsPool(TreeDriver):
    """The pool's half of the btrfs driver.

    ``source`` is the loop file in LXD_DIR/disks, the UUID of the file system on a block device
    (whose path is kept in ``volatile.initial_source``), or an empty directory on btrfs.
    """

    @classmethod
    def validate(cls, config: Mapping[str, str]) -> None:
        size, source = parse_size(config.get("size", "")), config.get("source", "")
        if size and size < _LEAST_SIZE:
            raise BadRequest(f"A btrfs pool needs at least {_LEAST_SIZE} bytes, not {size}")
        if source and not source.startswith("/") and not _is_uuid(source):
            raise BadRequest(
                f"Invalid source {source[:64]!r} of a btrfs pool: give an absolute path or a UUID"
            )

    @property
    def _loop_file(self) -> Path:
        return self.disks / f"{self.pool}.img"

    @property
    def _on_loop(self) -> bool:
        return self.config.get("source", "") in ("", str(self._loop_file))

    @property
    def _options(self) -> str:
        return self.config.get("btrfs.mount_options") or _DEFAULT_OPTIONS

    # -- create and delete ------------------------------------------------------------------------

    def create(self) -> dict[str, str]:
        source = self.config.get("source", "")
        with contextlib.ExitStack() as undo:
            if self._on_loop:
                self._create_on_loop(undo)
            elif source.startswith("/") and Path(source).is_dir():
                self._check_directory(Path(source))
            else:
                self._create_on_device(source, undo)
            self.config.setdefault("volatile.initial_source", source)
            made = not self.root.exists()
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            if made:
                undo.callback(self.root.rmdir)
            self._mount()
            undo.callback(self.unmount)
            if any(self.root.iterdir()):
                raise Conflict(f"The btrfs file system on {source} is not empty")
            self.claim()
            undo.callback(self.remove_contents)
            self.make_directories()
            undo.pop_all()
        return dict(self.config)

    def _create_on_loop(self, undo: contextlib.ExitStack) -> None:
        file = self._loop_file
        self.disks.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.statvfs(self.disks)
        size = parse_size(self.config.get("size", ""))
        if not size:
            free = status.f_bavail * status.f_frsize
            size = min(max(free // 5, _DEFAULT_LEAST), _DEFAULT_MOST)
            self.config["size"] = f"{size // 1024**3}GiB"
            size = parse_size(self.config["size"])
        total = status.f_blocks * status.f_frsize
        if size > total:
            raise BadRequest(
                f"Cannot make storage pool '{self.pool}' of {size} bytes: the file system of"
                f" {self.disks} has only {total}"
            )
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as exc:
            raise Conflict(
                f"Cannot make storage pool '{self.pool}': the loop file {file} is there already"
            ) from exc
        undo.callback(file.unlink)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
        run(["mkfs.btrfs", "-q", "-L", self.pool, str(file)])
        self.config["source"] = str(file)

    def _create_on_device(self, source: str, undo: contextlib.ExitStack) -> None:
        if _is_uuid(source):
            self._device()
            return
        try:
            mode = Path(source).stat().st_mode
        except FileNotFoundError as exc:
            raise BadRequest(f"The source {source!r} of the btrfs pool does not exist") from exc
        if not stat.S_ISBLK(mode):
            raise BadRequest(
                f"The source {source!r} of the btrfs pool is neither a block device"
                " nor a directory"
            )
        name = str(uuid.uuid4())
        try:
            run(["mkfs.btrfs", "-q", "-L", self.pool, "-U", name, source])
        except ProgramError as exc:
            raise BadRequest(
                f"Cannot make a btrfs file system on {source}: it is in use or holds data"
                f" (wipe it with wipefs first): {exc.stderr.strip()}"
            ) from exc
        undo.callback(run, ["wipefs", "-q", "-a", source])
        self.config["volatile.initial_source"] = source
        self.config["source"] = name

    def _check_directory(self, source: Path) -> None:
        if not ioctl.is_btrfs(source):
            raise BadRequest(f"The source {source} of the btrfs pool is not on btrfs")
        if any(source.iterdir()):
            raise Conflict(f"The source {source} of the btrfs pool is not empty")

    def delete(self) -> None:
        source = self.config.get("source", "")
        device = None
        if not self._on_loop:
            if mounts.find(self.root) is None and self.root.exists():
                self._mount()
            if mounts.find(self.root) is not None:
                device = None if source.startswith("/") else self._device()
                if not self.remove_contents():
                    device = None
        self.unmount()
        if self._on_loop:
            self._loop_file.unlink(missing_ok=True)
        elif device is not None:
            run(["wipefs", "-q", "-a", device])
        self.remove_root()

    # -- mount ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _source_device(self) -> Iterator[tuple[str, bool]]:
        """(what to mount, whether it is a directory to bind) while the block runs."""
        source = self.config.get("source", "")
        if self._on_loop:
            if not self._loop_file.exists():
                raise InternalError(
                    f"Cannot mount storage pool '{self.pool}': its loop file {self._loop_file}"
                    " is gone; restore it or delete the pool"
                )
            with loop.attached(self._loop_file) as device:
                yield str(device), False
        elif source.startswith("/"):
            yield source, not stat.S_ISBLK(Path(source).stat().st_mode)
        else:
            yield self._device(), False

    def _device(self) -> str:
        """The block device that holds the file system whose UUID is the source."""
        found = run(["blkid", "-U", self.config["source"]], check=False)
        if found.returncode != 0:
            raise InternalError(
                f"Cannot find the device of storage pool '{self.pool}': no disk has the"
                f" file system UUID {self.config['source']}"
            )
        return found.text.strip()

    def _mount(self) -> None:
        with self._source_device() as (device, directory):
            if directory:
                mounts.bind(device, self.root)
            else:
                run(["mount", "-t", "btrfs", "-o", self._options, device, str(self.root)])

    def mount(self) -> bool:
        fresh = mounts.find(self.root) is None
        if fresh:
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._mount()
        self.make_directories()
        self.sweep()
        return fresh

    def unmount(self) -> bool:
        return self.release_root()

    def update(self, config: Mapping[str, str]) -> None:
        size, old = parse_size(config.get("size", "")), parse_size(self.config.get("size", ""))
        for key in ("source", "volatile.initial_source"):
            if config.get(key, "") != self.config.get(key, ""):
                raise BadRequest(f"{key} of storage pool '{self.pool}' cannot be changed")
        if size != old:
            if not self._on_loop:
                raise BadRequest(
                    f"Storage pool '{self.pool}' is not on a loop file: its size cannot be changed"
                )
            self._grow(size)
        options = config.get("btrfs.mount_options") or _DEFAULT_OPTIONS
        if options != self._options:
            run(["mount", "-o", f"remount,{options}", str(self.root)])
        self.config = dict(config)

    def _grow(self, size: int) -> None:
        file = self._loop_file
        if size < file.stat().st_size:
            raise BadRequest(f"Storage pool '{self.pool}' cannot be made smaller")
        os.truncate(file, size)
        device = loop.find(file)
        if device is None:
            return  # not mounted: it has the new size when it is
        loop.refresh_size(device)
        with ioctl.opened(self.root) as fd:
            ioctl.grow_to_device(fd)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
