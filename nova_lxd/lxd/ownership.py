# SPDX-License-Identifier: Apache-2.0
"""Who owns an LXD_DIR: one daemon at a time, and never a directory of a real LXD."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.paths import Paths

# Written by a real LXD (dqlite's directories and the local database), never by this daemon.
_REAL_LXD = ("database/local.db", "database/global", "lxd.db")


def claim(paths: Paths) -> int:
    """Lock LXD_DIR for this process; the lock lasts as long as the returned descriptor is open.

    :raises InternalError: a real LXD owns the directory, or another daemon runs in it.
    """
    for entry in _REAL_LXD:
        if (paths.root / entry).exists():
            raise InternalError(
                f"Starting in {paths.root} failed: the directory belongs to a real LXD "
                f"({entry} is there); set LXD_DIR to another directory"
            )
    paths.root.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = paths.root / "nova-lxd.lock"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise InternalError(
            f"Starting in {paths.root} failed: another daemon runs there; stop that one or set "
            "LXD_DIR to another directory"
        ) from exc
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def make_layout(paths: Paths) -> None:
    """Create the directories below LXD_DIR with LXD's modes; idempotent."""
    layout: dict[Path, int] = {
        paths.backups: 0o700,
        paths.containers: 0o711,
        paths.database.parent: 0o700,
        paths.devices: 0o711,
        paths.devlxd: 0o755,
        paths.disks: 0o700,
        paths.images: 0o700,
        paths.logs: 0o700,
        paths.networks: 0o711,
        paths.run: 0o711,
        paths.security: 0o700,
        paths.shmounts: 0o711,
        paths.snapshots: 0o700,
        paths.pools: 0o711,
    }
    for path, mode in layout.items():
        path.mkdir(mode=mode, exist_ok=True)
        path.chmod(mode)
