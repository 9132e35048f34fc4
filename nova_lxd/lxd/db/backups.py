# SPDX-License-Identifier: Apache-2.0
"""Backups of instances in the database; the archives are files below LXD_DIR/backups."""

from __future__ import annotations

from dataclasses import dataclass

from nova_lxd.lxd.db.connection import Database, Row


@dataclass(frozen=True)
class BackupRecord:
    """One backup of an instance; times are UNIX times, ``expires_at`` 0 for never."""

    instance_id: int
    name: str
    created_at: float
    expires_at: float = 0.0
    instance_only: bool = False
    optimized: bool = False
    compression: str = ""


def _backup(row: Row) -> BackupRecord:
    return BackupRecord(
        row["instance_id"],
        row["name"],
        row["created_at"],
        row["expires_at"],
        bool(row["instance_only"]),
        bool(row["optimized"]),
        row["compression"],
    )


def of_instance(db: Database, instance_id: int) -> list[BackupRecord]:
    """The backups of an instance, oldest first."""
    rows = db.read().execute(
        "SELECT * FROM backups WHERE instance_id = ? ORDER BY id", (instance_id,)
    )
    return [_backup(row) for row in rows]


def expired(db: Database, now: float) -> list[BackupRecord]:
    """The backups whose time is over."""
    rows = db.read().execute(
        "SELECT * FROM backups WHERE expires_at > 0 AND expires_at <= ?", (now,)
    )
    return [_backup(row) for row in rows]


def create(db: Database, backup: BackupRecord) -> None:
    """:raises sqlite3.IntegrityError: the instance has a backup of this name."""
    with db.write() as conn:
        conn.execute(
            "INSERT INTO backups (instance_id, name, created_at, expires_at, instance_only,"
            " optimized, compression) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                backup.instance_id,
                backup.name,
                backup.created_at,
                backup.expires_at,
                int(backup.instance_only),
                int(backup.optimized),
                backup.compression,
            ),
        )


def rename(db: Database, instance_id: int, old: str, new: str) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE backups SET name = ? WHERE instance_id = ? AND name = ?",
            (new, instance_id, old),
        )


def delete(db: Database, instance_id: int, name: str) -> None:
    with db.write() as conn:
        conn.execute("DELETE FROM backups WHERE instance_id = ? AND name = ?", (instance_id, name))
