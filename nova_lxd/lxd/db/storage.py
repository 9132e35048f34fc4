# SPDX-License-Identifier: Apache-2.0
"""Storage pools, custom volumes and their snapshots in the database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from nova_lxd.lxd.db.connection import Database, Row, dump, load


@dataclass(frozen=True)
class PoolRow:
    """One stored pool; ``status`` is Pending while it is made, Created, or Unavailable."""

    name: str
    driver: str
    description: str
    config: dict[str, str]
    status: str


@dataclass(frozen=True)
class VolumeRow:
    """One stored custom volume; ``intent`` says what was begun and not ended."""

    id: int
    pool: str
    project: str
    type: str
    name: str
    description: str
    content_type: str
    config: dict[str, str]
    created_at: float
    intent: str


@dataclass(frozen=True)
class VolumeSnapshotRow:
    """One stored snapshot of a custom volume."""

    volume_id: int
    name: str
    description: str
    config: dict[str, str]
    created_at: float
    expires_at: float


def _pool(row: Row) -> PoolRow:
    return PoolRow(
        row["name"], row["driver"], row["description"], load(row["config"]), row["status"]
    )


def pools(db: Database) -> list[PoolRow]:
    return [_pool(r) for r in db.read().execute("SELECT * FROM storage_pools ORDER BY name")]


def pool(db: Database, name: str) -> PoolRow | None:
    row = db.read().execute("SELECT * FROM storage_pools WHERE name = ?", (name,)).fetchone()
    return _pool(row) if row else None


def create_pool(
    db: Database,
    name: str,
    driver: str,
    description: str,
    config: Mapping[str, str],
    status: str,
) -> None:
    with db.write() as conn:
        conn.execute(
            "INSERT INTO storage_pools (name, driver, description, config, status)"
            " VALUES (?, ?, ?, ?, ?)",
            (name, driver, description, dump(dict(config)), status),
        )


def update_pool(
    db: Database, name: str, description: str, config: Mapping[str, str], status: str
) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE storage_pools SET description = ?, config = ?, status = ? WHERE name = ?",
            (description, dump(dict(config)), status, name),
        )


def delete_pool(db: Database, name: str) -> None:
    with db.write() as conn:
        conn.execute("DELETE FROM storage_pools WHERE name = ?", (name,))


_VOLUMES = (
    "SELECT v.*, s.name AS pool, p.name AS project FROM storage_volumes v"
    " JOIN storage_pools s ON s.id = v.pool_id JOIN projects p ON p.id = v.project_id "
)


def _volume(row: Row) -> VolumeRow:
    return VolumeRow(
        row["id"],
        row["pool"],
        row["project"],
        row["type"],
        row["name"],
        row["description"],
        row["content_type"],
        load(row["config"]),
        row["created_at"],
        row["intent"],
    )


def volumes(db: Database, pool_name: str | None = None) -> list[VolumeRow]:
    """The custom volumes of one pool, or of all."""
    where, args = ("WHERE s.name = ? ", (pool_name,)) if pool_name is not None else ("", ())
    return [_volume(r) for r in db.read().execute(_VOLUMES + where + "ORDER BY v.name", args)]


def volume(db: Database, pool_name: str, project: str, name: str) -> VolumeRow | None:
    row = (
        db.read()
        .execute(
            _VOLUMES + "WHERE s.name = ? AND p.name = ? AND v.name = ?",
            (pool_name, project, name),
        )
        .fetchone()
    )
    return _volume(row) if row else None


def create_volume(
    db: Database,
    pool_name: str,
    project: str,
    name: str,
    description: str,
    content_type: str,
    config: Mapping[str, str],
    intent: str,
) -> int:
    """Insert a custom volume; returns its id."""
    with db.write() as conn:
        cursor = conn.execute(
            "INSERT INTO storage_volumes (pool_id, project_id, type, name, description,"
            " content_type, config, created_at, intent)"
            " SELECT s.id, p.id, 'custom', ?, ?, ?, ?, ?, ? FROM storage_pools s, projects p"
            " WHERE s.name = ? AND p.name = ?",
            (
                name,
                description,
                content_type,
                dump(dict(config)),
                time.time(),
                intent,
                pool_name,
                project,
            ),
        )
        return int(cursor.lastrowid or 0)


def update_volume(
    db: Database, volume_id: int, description: str, config: Mapping[str, str]
) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE storage_volumes SET description = ?, config = ? WHERE id = ?",
            (description, dump(dict(config)), volume_id),
        )


def set_volume_intent(db: Database, volume_id: int, intent: str) -> None:
    with db.write() as conn:
        conn.execute("UPDATE storage_volumes SET intent = ? WHERE id = ?", (intent, volume_id))


def rename_volume(db: Database, volume_id: int, name: str) -> None:
    with db.write() as conn:
        conn.execute("UPDATE storage_volumes SET name = ? WHERE id = ?", (name, volume_id))


def delete_volume(db: Database, volume_id: int) -> None:
    with db.write() as conn:
        conn.execute("DELETE FROM storage_volumes WHERE id = ?", (volume_id,))


def _snapshot(row: Row) -> VolumeSnapshotRow:
    return VolumeSnapshotRow(
        row["volume_id"],
        row["name"],
        row["description"],
        load(row["config"]),
        row["created_at"],
        row["expires_at"],
    )


def volume_snapshots(db: Database, volume_id: int) -> list[VolumeSnapshotRow]:
    """The snapshots of a volume, oldest first."""
    rows = db.read().execute(
        "SELECT * FROM storage_volume_snapshots WHERE volume_id = ? ORDER BY id", (volume_id,)
    )
    return [_snapshot(row) for row in rows]


def put_volume_snapshot(db: Database, snapshot: VolumeSnapshotRow) -> None:
    """Insert a snapshot, or replace the one of the same name keeping its place."""
    with db.write() as conn:
        conn.execute(
            "INSERT INTO storage_volume_snapshots"
            " (volume_id, name, description, config, created_at, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (volume_id, name) DO UPDATE SET"
            " description = excluded.description, config = excluded.config,"
            " expires_at = excluded.expires_at",
            (
                snapshot.volume_id,
                snapshot.name,
                snapshot.description,
                dump(snapshot.config),
                snapshot.created_at,
                snapshot.expires_at,
            ),
        )


def rename_volume_snapshot(db: Database, volume_id: int, old: str, new: str) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE storage_volume_snapshots SET name = ? WHERE volume_id = ? AND name = ?",
            (new, volume_id, old),
        )


def delete_volume_snapshot(db: Database, volume_id: int, name: str) -> None:
    with db.write() as conn:
        conn.execute(
            "DELETE FROM storage_volume_snapshots WHERE volume_id = ? AND name = ?",
            (volume_id, name),
        )


def instances_on(db: Database, pool_name: str) -> list[tuple[str, str, float]]:
    """(project, name, creation time) of the instances whose root is on a pool."""
    rows = db.read().execute(
        "SELECT p.name AS project, i.name AS name, i.created_at FROM instances i"
        " JOIN projects p ON p.id = i.project_id WHERE i.pool = ? ORDER BY i.name",
        (pool_name,),
    )
    return [(row["project"], row["name"], row["created_at"]) for row in rows]


def instance_snapshots_on(db: Database, pool_name: str) -> list[tuple[str, str, str, float]]:
    """(project, instance, snapshot, creation time) of the instances' snapshots on a pool."""
    rows = db.read().execute(
        "SELECT p.name AS project, i.name AS instance, s.name AS name, s.created_at"
        " FROM snapshots s JOIN instances i ON i.id = s.instance_id"
        " JOIN projects p ON p.id = i.project_id WHERE i.pool = ? ORDER BY i.name, s.id",
        (pool_name,),
    )
    return [(r["project"], r["instance"], r["name"], r["created_at"]) for r in rows]


def image_projects(db: Database, fingerprints: list[str]) -> dict[str, str]:
    """One project of each image, for the URLs of image volumes."""
    marks = ",".join("?" * len(fingerprints))
    rows = db.read().execute(
        "SELECT i.fingerprint, p.name AS project FROM images i JOIN projects p"
        f" ON p.id = i.project_id WHERE i.fingerprint IN ({marks}) ORDER BY p.id DESC",
        fingerprints,
    )
    return {row["fingerprint"]: row["project"] for row in rows}
