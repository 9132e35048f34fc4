# SPDX-License-Identifier: Apache-2.0
"""The mount of a running instance's root: idmapped by us, at a path of its own."""

from __future__ import annotations

import errno
from pathlib import Path

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host import idmap, mounts
from nova_lxd.lxd.host.idmap import Idmap


def mount(source: Path, target: Path, ids: Idmap, *, readonly: bool) -> None:
    """Mount an instance's tree at ``target``, where its root sees itself as owner.

    A mount that an earlier life left there is removed first.

    :raises InternalError: the pool's file system cannot be idmapped, or the tree is not there.
    """
    if not target.is_dir():
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
    unmount(target)
    if source.is_symlink():
        raise InternalError(f"Mounting the root of the instance failed: {source} is a link")
    fd = idmap.userns_fd(ids) if ids else None
    try:
        mounts.bind(source, target, userns_fd=fd, recursive=False, readonly=readonly)
    except OSError as exc:
        if exc.errno == errno.EINVAL and ids:
            raise InternalError(
                f"Mounting the root of the instance from {source} failed: its file system cannot "
                "be idmapped; use a pool on btrfs, ext4 or xfs, or security.privileged"
            ) from exc
        if exc.errno == errno.EPERM and ids and idmap.inside_container():
            raise InternalError(
                f"Mounting the root of the instance from {source} failed: inside a container no "
                "file system can be idmapped; set security.privileged, with which the instance's "
                "root is this container's own, unprivileged one"
            ) from exc
        raise InternalError(
            f"Mounting the root of the instance from {source} failed: {exc.strerror}"
        ) from exc


def unmount(target: Path) -> None:
    """Undo :func:`mount`, as often as it was done; fine when nothing is mounted."""
    while mounts.unmount(target, lazy=True):
        continue
