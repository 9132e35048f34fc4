# SPDX-License-Identifier: Apache-2.0
"""Optimised backups: the storage driver's own streams in place of trees (LXD's layout).

``backup/snapshots/NAME.bin``, each on top of the one before, and ``backup/container.bin``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import shift
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.images.metadata import load_yaml
from nova_lxd.lxd.instances.backupindex import Index
from nova_lxd.lxd.storage.drivers.interface import Driver
from nova_lxd.lxd.storage.inside import need_directory
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.volume import ROOTFS, Volume

_DOING = "Importing the backup"
_MAX_HEADER = 1 << 20


def check(index: Index, pool: Pool) -> None:
    """:raises BadRequest: the pool cannot take the streams of an optimised backup."""
    if index.backend != pool.driver.name or not pool.info.optimized_backups:
        raise BadRequest(
            f"Importing the backup failed: it is optimised for storage driver {index.backend!r} "
            f"and pool {pool.name!r} has another; export it without --optimized-storage"
        )


def write(driver: Driver, volume: Volume, snapshots: Sequence[str], directory: Path) -> None:
    """Write the streams of a volume and some of its snapshots into ``backup``.

    :raises BadRequest: the volume cannot be told as one stream.
    """
    parent = None
    if snapshots:
        (directory / "snapshots").mkdir()
    for name in snapshots:
        with (directory / "snapshots" / f"{name}.bin").open("wb") as out:
            driver.backup(volume.at(name), parent, out.fileno())
        parent = name
    with (directory / "container.bin").open("wb") as out:
        driver.backup(volume, parent, out.fileno())


def read(
    driver: Driver, volume: Volume, snapshots: Sequence[str], tree: Path, idmap: Idmap
) -> None:
    """Make a volume with snapshots of the streams in an archive that was unpacked at ``tree``.

    :param idmap: the map by which the other server had changed the owners on its disk.
    :raises BadRequest: a stream is missing or is no such thing; nothing of the volume is left.
    """
    _check_header(need_directory(tree, "backup", _DOING) / "optimized_header.yaml")
    with ExitStack() as undo:
        undo.callback(driver.delete_volume, volume)
        for name in snapshots:
            _restore(driver, volume.at(name), tree, "backup/snapshots", f"{name}.bin")
        _restore(driver, volume, tree, "backup", "container.bin")
        if idmap:
            _unshift(driver, volume, snapshots, idmap)
        undo.pop_all()


def _unshift(driver: Driver, volume: Volume, snapshots: Sequence[str], idmap: Idmap) -> None:
    """Give all files the container's own ids.

    Snapshots cannot be written to: each is made anew of the volume, whose content is kept aside.
    """
    aside = next(name for n in count() if (name := f"import{n}") not in snapshots)
    driver.create_snapshot(volume.at(aside))
    for name in (*snapshots, aside):
        driver.restore_snapshot(volume.at(name))
        rootfs = need_directory(driver.mount_volume(volume), ROOTFS, _DOING)
        shift.unshift(rootfs, idmap)
        driver.delete_snapshot(volume.at(name))
        if name != aside:
            driver.create_snapshot(volume.at(name))


def _check_header(path: Path) -> None:
    """:raises BadRequest: LXD says there that the volume has subvolumes below its own."""
    if not os.path.lexists(path):
        return
    loaded = load_yaml(_contents(path, path.parent.name, path.name))
    entries = loaded.get("subvolumes") if isinstance(loaded, dict) else None
    if not isinstance(entries, list) or any(
        not isinstance(entry, dict) or entry.get("path") != "/" for entry in entries
    ):
        raise BadRequest(
            f"{_DOING} failed: it is optimised and holds nested subvolumes; export it without "
            "--optimized-storage"
        )


def _contents(path: Path, inner: str, name: str) -> bytes:
    fd = _open(path.parent, inner, name)
    with os.fdopen(fd, "rb") as file:
        return file.read(_MAX_HEADER)


def _open(directory: Path, inner: str, name: str) -> int:
    """:raises BadRequest: there is no such regular file."""
    try:
        fd = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise BadRequest(f"{_DOING} failed: it has no file {inner}/{name}") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadRequest(f"{_DOING} failed: {inner}/{name} is no file")
    return fd


def _restore(driver: Driver, volume: Volume, tree: Path, inner: str, name: str) -> None:
    fd = _open(need_directory(tree, inner, _DOING), inner, name)
    try:
        driver.restore_backup(volume, fd)
    finally:
        os.close(fd)
