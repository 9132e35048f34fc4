# SPDX-License-Identifier: Apache-2.0
"""Backups of custom volumes in the database; the archives are files below LXD_DIR/backups."""

from __future__ import annotations

from dataclasses import dataclass

from nova_lxd.lxd.db.connection import Database, Row


@dataclass(frozen=True)
class VolumeBackup:
    """One backup of a custom volume; times are UNIX times, ``expires_at`` 0 for never."""

    volume_id: int
    name: str
    created_at: float
    expires_at: float = 0.0
    volume_only: bool = False


def _backup(row: Row) -> VolumeBackup:
    return VolumeBackup(
        row["volume_id"],
        row["name"],
        row["created_at"],
        row["expires_at"],
        bool(row["volume_only"]),
    )


def of_volume(db: Database, volume_id: int) -> list[VolumeBackup]:
    """The backups of a volume, oldest first."""
    rows = db.read().execute(
        "SELECT * FROM storage_volume_backups WHERE volume_id = ? ORDER BY id", (volume_id,)
    )
    return [_backup(row) for row in rows]


def create(db: Database, backup: VolumeBackup) -> None:
    """:raises sqlite3.IntegrityError: the volume has a backup of this name."""
    with db.write() as conn:
        conn.execute(
            "INSERT INTO storage_volume_backups"
            " (volume_id, name, created_at, expires_at, volume_only) VALUES (?, ?, ?, ?, ?)",
            (
                backup.volume_id,
                backup.name,
                backup.created_at,
                backup.expires_at,
                int(backup.volume_only),
            ),
        )


def rename(db: Database, volume_id: int, old: str, new: str) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE storage_volume_backups SET name = ? WHERE volume_id = ? AND name = ?",
            (new, volume_id, old),
        )


def delete(db: Database, volume_id: int, name: str) -> None:
    with db.write() as conn:
        conn.execute(
            "DELETE FROM storage_volume_backups WHERE volume_id = ? AND name = ?",
            (volume_id, name),
        )
