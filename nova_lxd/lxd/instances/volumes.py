# SPDX-License-Identifier: Apache-2.0
"""The volume of an instance: its name on the pool, its size, and the links LXD keeps to it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.instances.context import Context
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.paths import Paths, storage_name
from nova_lxd.lxd.storage.drivers.interface import Driver
from nova_lxd.lxd.storage.volume import ROOTFS, Volume, VolumeType


def driver(ctx: Context, pool: str) -> Driver:
    """The driver of a pool.

    :raises NotFound: there is no such pool.
    """
    return ctx.storage.get(pool).driver


def of_name(project: str, name: str, size: str = "") -> Volume:
    """The volume of an instance by its name."""
    return Volume(
        VolumeType.CONTAINER,
        storage_name(project, name),
        config={"size": size} if size else {},
    )


def of_record(record: InstanceRecord, expanded: Expanded | None = None) -> Volume:
    """The volume of an instance, with the size of its root disk when ``expanded`` is given."""
    return of_name(record.project, record.name, root_size(expanded) if expanded else "")


def root_size(expanded: Expanded) -> str:
    """The size that the root disk asks for; empty for none."""
    root = expanded.root
    return root[1].get("size", "") if root else ""


def rootfs(ctx: Context, record: InstanceRecord) -> Path:
    """The root file system on the pool (on-disk ids are the container's)."""
    return driver(ctx, record.pool).path(of_record(record)) / ROOTFS


def require_pool(ctx: Context, root: tuple[str, Mapping[str, str]] | None) -> str:
    """The pool of a root disk device.

    :raises BadRequest: there is no root disk, or its pool does not exist.
    """
    if root is None:
        raise BadRequest(
            "Failed creating instance record: Failed detecting root disk device: "
            "No root device could be found"
        )
    pool = root[1]["pool"]
    try:
        ctx.storage.get(pool)
    except NotFound as exc:
        raise BadRequest(
            f"Failed creating instance record: Storage pool {pool[:64]!r} of the root disk "
            "does not exist"
        ) from exc
    return pool


def _links(paths: Paths, pool: str, volume: Volume) -> list[tuple[Path, Path]]:
    top = paths.pool(pool)
    return [
        (paths.containers / volume.name, top / "containers" / volume.name),
        (paths.snapshots / volume.name, top / "containers-snapshots" / volume.name),
    ]


def link(paths: Paths, pool: str, volume: Volume, *, snapshots: bool = False) -> None:
    """Make LXD_DIR/containers/NAME (and snapshots/NAME) point at the volume; idempotent."""
    for path, target in _links(paths, pool, volume)[: 2 if snapshots else 1]:
        with contextlib.suppress(FileNotFoundError):
            if path.readlink() == target:
                continue
            path.unlink()
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        path.symlink_to(target)


def unlink(paths: Paths, volume: Volume, *, only_snapshots: bool = False) -> None:
    """Remove the links to the volume; idempotent."""
    for path, _ in _links(paths, "", volume)[1 if only_snapshots else 0 :]:
        path.unlink(missing_ok=True)
