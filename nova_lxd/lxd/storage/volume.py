# SPDX-License-Identifier: Apache-2.0
"""What a volume is, apart from any driver: its kind, its name on disk and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.paths import DEFAULT_PROJECT
from nova_lxd.lxd.schema.sizes import parse_size

#: The directory of an instance's or image's volume that becomes the root of the container.
ROOTFS = "rootfs"
#: The file that holds the bytes of a volume of content type block on a tree driver.
BLOCK_FILE = "root.img"
#: LXD's size of a block volume that names none.
DEFAULT_BLOCK_SIZE = "10GiB"


class VolumeType(StrEnum):
    """The volume types of LXD's API."""

    CONTAINER = "container"
    CUSTOM = "custom"
    IMAGE = "image"

    @property
    def directory(self) -> str:
        """The directory of a pool that holds the volumes of this type."""
        return {"container": "containers", "custom": "custom", "image": "images"}[self.value]

    @property
    def snapshots_directory(self) -> str | None:
        """The directory of a pool that holds their snapshots, None when the type has none."""
        return None if self is VolumeType.IMAGE else f"{self.directory}-snapshots"


class ContentType(StrEnum):
    """The content types of LXD's API."""

    FILESYSTEM = "filesystem"
    BLOCK = "block"


def custom_name(project: str, name: str) -> str:
    """LXD's on-disk name of a custom volume: PROJECT_NAME, in project default too."""
    return f"{project or DEFAULT_PROJECT}_{name}"


def _check_name(what: str, name: str) -> None:
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 255:
        raise BadRequest(
            f"Invalid {what} name {name[:64]!r}: it must be a plain file name of 1 to 255"
            " characters that does not start with a dot"
        )


@dataclass(frozen=True)
class Volume:
    """One volume, or one snapshot of a volume, of a pool.

    ``name`` is the name as stored on disk (:func:`nova_lxd.lxd.paths.storage_name` for instances,
    :func:`custom_name` for custom volumes, the fingerprint for images).  ``config`` does not take
    part in comparisons.
    """

    type: VolumeType
    name: str
    snapshot: str | None = None
    content: ContentType = ContentType.FILESYSTEM
    config: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check_name("volume", self.name)
        if self.snapshot is not None:
            _check_name("snapshot", self.snapshot)
            if self.type is VolumeType.IMAGE:
                raise BadRequest(f"Image volume {self.name} cannot have snapshots")

    def __str__(self) -> str:
        return f"{self.type} volume '{self.full_name}'"

    @property
    def full_name(self) -> str:
        """NAME, or NAME/SNAPSHOT."""
        return self.name if self.snapshot is None else f"{self.name}/{self.snapshot}"

    @property
    def relative_path(self) -> Path:
        """Where LXD keeps it below the pool's mount point."""
        if self.snapshot is None:
            return Path(self.type.directory, self.name)
        return Path(f"{self.type.directory}-snapshots", self.name, self.snapshot)

    @property
    def mode(self) -> int:
        """Permissions of a new volume's directory, as LXD's."""
        return 0o711 if self.type is VolumeType.CUSTOM else 0o100

    @property
    def size(self) -> int:
        """The configured size in bytes, 0 for no limit."""
        return parse_size(self.config.get("size", ""))

    def at(self, snapshot: str) -> Volume:
        """The named snapshot of this volume."""
        return replace(self, snapshot=snapshot)

    @property
    def parent(self) -> Volume:
        """The volume that a snapshot is of (itself when it is none)."""
        return replace(self, snapshot=None)

    def renamed(self, name: str) -> Volume:
        """The same volume under another name."""
        return replace(self, name=name)
