# SPDX-License-Identifier: Apache-2.0
"""disk: the root, directories, files and block devices of the host, and custom volumes.

The source is first mounted below ``devices/INSTANCE`` with the map of owners and the flags that it
shall have; the instance gets that mount.  So a start and a hot plug do the same on the host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from nova_lxd.lxd.devices import block
from nova_lxd.lxd.devices.interface import BlockLimit, Device, Mount, RootDisk, RunConfig, Volatile
from nova_lxd.lxd.devices.nodes import encode
from nova_lxd.lxd.errors import BadRequest, LXDError
from nova_lxd.lxd.host import idmap, mounts, syscalls
from nova_lxd.lxd.network import values
from nova_lxd.lxd.network import values as v
from nova_lxd.lxd.schema.configkeys import KeyTable

_PROPAGATIONS = {
    "private": syscalls.MS_PRIVATE,
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
    "unbindable": syscalls.MS_UNBINDABLE,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
    "runbindable": syscalls.MS_UNBINDABLE | syscalls.MS_REC,
}
_CLOUD_INIT = "cloud-init:config"
_REMOTE = ("ceph:", "cephfs:")


class Disk(Device):
    """LXD's device type "disk"."""

    keys = KeyTable(
        "disk device",
        [
            v.key("path", "string", "Where it is mounted inside; / for the root."),
            v.key("source", "string", "Path on the host, or name of a custom volume."),
            v.key("pool", "string", "Storage pool of the root or of the custom volume."),
            v.key("size", "size", "Size limit of the root.", v.size),
            v.key("size.state", "size", "Size limit of the state volume.", v.size),
            v.key("readonly", "bool", "Mount read-only.", v.boolean),
            v.key("recursive", "bool", "Mount what is mounted below too.", v.boolean),
            v.key("shift", "bool", "Map owners to the instance's.", v.boolean),
            v.key("required", "bool", "Fail to start without the source.", v.boolean, "true"),
            v.key("optional", "bool", "Old opposite of required.", v.boolean),
            v.key("propagation", "string", "Propagation of mounts.", v.one_of(*_PROPAGATIONS)),
            v.key("raw.mount.options", "string", "Options for the file system of a block device."),
            v.key("limits.read", "string", "Reading limit in byte/s or iops.", block.rate),
            v.key("limits.write", "string", "Writing limit in byte/s or iops.", block.rate),
            v.key("limits.max", "string", "Both limits.read and limits.write.", block.rate),
            v.key("boot.priority", "integer", "Order of booting from it.", v.uint32),
            v.key("user.*", "string", "Free keys of the user."),
        ],
    )
    updatable = frozenset(("limits.max", "limits.read", "limits.write", "size", "size.state"))

    @property
    def is_root(self) -> bool:
        return self.get("path") == "/" and not self.get("source")

    @property
    def is_volume(self) -> bool:
        """Is it a custom volume?"""
        return bool(self.get("pool")) and not self.is_root

    @property
    def is_required(self) -> bool:
        if self.get("optional"):
            return not self.flag("optional")
        return not values.is_false(self.get("required"))

    # -- configuration ----------------------------------------------------------------------

    def check(self) -> None:
        source, path = self.get("source"), self.get("path")
        if self.get("required") and self.get("optional"):
            raise BadRequest(
                'Cannot use both "required" and deprecated "optional" properties at the same time'
            )
        if source == _CLOUD_INIT:
            raise BadRequest(
                f"disks with source={_CLOUD_INIT} are only supported by virtual machines"
            )
        if source.startswith(_REMOTE):
            raise BadRequest("Disks from ceph are not available here; use a pool or a host path")
        self._check_root(source, path)
        self._check_path(path)
        if not self.is_root:
            self._check_source(source, path)

    def _check_root(self, source: str, path: str) -> None:
        if not source and path != "/":
            raise BadRequest('Disk entry is missing the required "source" property')
        if path == "/" and source:
            raise BadRequest('Root disk entry may not have a "source" property set')
        if path == "/" and not self.get("pool"):
            raise BadRequest('Root disk entry must have a "pool" property set')
        if path != "/" and self.get("size"):
            raise BadRequest("Only the root disk may have a size quota")
        if path != "/" and self.get("size.state"):
            raise BadRequest("Only the root disk may have a migration size quota")
        if self.get("pool") and not self.instance.is_profile:
            pool = self.get("pool")
            if not self.host.volumes.pool_exists(pool):
                raise BadRequest(
                    f"Failed to get storage pool {values.quoted(pool)}: Storage pool not found"
                )

    def _check_path(self, path: str) -> None:
        if not path:
            raise BadRequest('Disk entry is missing the required "path" property')
        if ".." in Path(path).parts:
            raise BadRequest(
                f'Invalid value for device option "path": {values.quoted(path)} leads out of the'
                " instance"
            )
        same = [
            name
            for name, config in self.instance.devices.items()
            if config.get("type") == "disk" and config.get("path") == path and name != self.name
        ]
        if same:
            raise BadRequest(f"More than one disk device uses the same path {values.quoted(path)}")

    def _check_source(self, source: str, path: str) -> None:
        if self.get("recursive") and not self.is_volume and Path(source).is_file():
            raise BadRequest(
                "The recursive option is only supported for additional bind-mounted paths"
            )
        if self.flag("recursive") and self.flag("readonly"):
            raise BadRequest(
                "Recursive read-only bind-mounts aren't currently supported by the kernel"
            )
        if not self.is_volume:
            if not source.startswith("/"):
                raise BadRequest("Source path must be absolute for local sources")
            if self.is_required and not self.instance.is_profile and not Path(source).exists():
                raise BadRequest(
                    f"Missing source path {values.quoted(source)} for disk"
                    f" {values.quoted(self.name)}"
                )
            return
        if self.get("shift"):
            raise BadRequest('The "shift" property cannot be used with custom storage volumes')
        if source.startswith("/"):
            raise BadRequest("Storage volumes cannot be specified as absolute paths")
        if not self.instance.is_profile:
            try:
                volume = self.host.volumes.custom_volume(
                    self.instance.volume_project, self.get("pool"), source
                )
            except LXDError as exc:
                raise BadRequest(f"Failed loading custom volume: {exc.message}") from exc
            if volume.content_type == "block":
                raise BadRequest("Custom block volumes cannot be used on containers")

    # -- life -------------------------------------------------------------------------------

    def mount_point(self) -> Path:
        """Where the source is made ready on the host."""
        return self.directory() / encode(f"disk.{self.name}.{self.get('path').strip('/')}")

    def _user(self) -> str:
        """Who holds a custom volume's mount."""
        return f"{self.instance.stored_name}.{self.name}"

    def start(self) -> RunConfig:
        if self.is_root:
            root = RootDisk(self.get("pool"), self.flag("readonly"))
            return RunConfig(root=root, block_limits=self._limits(self._root_path()))
        self.post_stop()
        with ExitStack() as undo:
            source, shifted = self._source(undo)
            if source is None:
                undo.pop_all()
                return RunConfig()
            target = self.mount_point()
            directory = self._make_target(undo, source, target)
            undo.callback(mounts.unmount, target, lazy=True)
            self._mount(source, target, shifted, directory)
            undo.pop_all()
        limits = self._limits(self.mount_point())
        return RunConfig(mounts=[self._described(directory)], block_limits=limits)

    def _root_path(self) -> Path:
        return self.host.paths.pool(self.get("pool"))

    def _limits(self, where: Path, old: Mapping[str, str] | None = None) -> list[BlockLimit]:
        """The I/O limits of what ``where`` is stored on; zeros where ``old`` ones are lifted."""
        wanted = block.limits(self.config)
        if not wanted and not (old and block.limits(old)):
            return []
        return block.limits_of(where, wanted)

    def _described(self, directory: bool) -> Mount:
        return Mount(
            source=self.mount_point(),
            target=self.get("path"),
            directory=directory,
            readonly=self.flag("readonly"),
            recursive=self.flag("recursive"),
            propagation=self.get("propagation"),
        )

    def _source(self, undo: ExitStack) -> tuple[Path | None, bool]:
        """(what to mount, whether to map its owners); None when it may be missing and is."""
        if self.is_volume:
            where = (self.instance.volume_project, self.get("pool"), self.get("source"))
            volume = self.host.volumes.mount_custom(*where, self._user())
            undo.callback(self.host.volumes.unmount_custom, *where, self._user())
            return volume.path, not volume.unmapped
        source = Path(self.get("source"))
        if not source.exists():
            if self.is_required:
                raise BadRequest(
                    f"Missing source path {values.quoted(str(source))} for disk"
                    f" {values.quoted(self.name)}"
                )
            return None, False
        return source, self.flag("shift")

    def _make_target(self, undo: ExitStack, source: Path, target: Path) -> bool:
        """Make the empty directory or file that the source is mounted on; True for a directory."""
        target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        mode = source.stat().st_mode
        # A block device is mounted as the file system that is on it.
        directory = stat.S_ISDIR(mode) or stat.S_ISBLK(mode)
        if directory:
            target.mkdir(mode=0o700)
            undo.callback(target.rmdir)
        else:
            target.touch(mode=0o600, exist_ok=False)
            undo.callback(target.unlink)
        return directory

    def _mount(self, source: Path, target: Path, shifted: bool, directory: bool) -> None:
        userns = idmap.userns_fd(self.instance.idmap) if shifted and self.instance.idmap else None
        if directory and stat.S_ISBLK(source.stat().st_mode):
            block.mount(
                source,
                target,
                readonly=self.flag("readonly"),
                options=self.get("raw.mount.options"),
            )
            return
        try:
            self._bind(source, target, userns)
        except OSError as exc:
            shift = " with shifted owners" if userns is not None else ""
            raise BadRequest(
                f"Mounting {values.quoted(str(source))}{shift} for disk"
                f" {values.quoted(self.name)} failed: {os.strerror(exc.errno or 0)}"
            ) from exc

    def _bind(self, source: Path, target: Path, userns: int | None) -> None:
        propagation = self.get("propagation")
        recursive = self.flag("recursive")
        if not propagation or userns is not None:
            mounts.bind(
                source,
                target,
                userns_fd=userns,
                recursive=recursive,
                readonly=self.flag("readonly"),
            )
        else:
            # A plain bind stays in the source's peer group, which slave and shared are about.
            flags = syscalls.MS_BIND | (syscalls.MS_REC if recursive else 0)
            syscalls.mount(str(source), str(target), "", flags)
            if self.flag("readonly"):
                again = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
                syscalls.mount("", str(target), "", again)
        if propagation:
            syscalls.mount("", str(target), "", _PROPAGATIONS[propagation])

    def update(self, old: Mapping[str, str]) -> RunConfig:
        if self.is_root and old.get("size", "") != self.get("size"):
            self.host.volumes.set_root_size(
                self.instance.project, self.instance.name, self.get("pool"), self.get("size")
            )
        if self.instance.init_pid is None:
            return RunConfig()
        where = self._root_path() if self.is_root else self.mount_point()
        return RunConfig(block_limits=self._limits(where, old) if where.exists() else [])

    def stop(self) -> RunConfig:
        if self.is_root or not self.mount_point().exists():
            return RunConfig()
        return RunConfig(mounts=[self._described(self.mount_point().is_dir())])

    def post_stop(self) -> Volatile:
        if self.is_root:
            return {}
        target = self.mount_point()
        if target.exists():
            while mounts.unmount(target, lazy=True):
                pass
            if target.is_dir():
                target.rmdir()
            else:
                target.unlink()
        if self.is_volume:
            where = (self.instance.volume_project, self.get("pool"), self.get("source"))
            self.host.volumes.unmount_custom(*where, self._user())
        return {}
