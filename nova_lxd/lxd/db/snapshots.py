# SPDX-License-Identifier: Apache-2.0
"""Snapshots of instances in the database."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nova_lxd.lxd.db.connection import Database, Row, dump, load
from nova_lxd.lxd.db.profiles import Devices


@dataclass(frozen=True)
class SnapshotRecord:
    """One stored snapshot; ``expires_at`` is a UNIX time, 0 for never."""

    instance_id: int
    name: str
    architecture: str
    created_at: float
    id: int = 0
    description: str = ""
    ephemeral: bool = False
    stateful: bool = False
    config: dict[str, str] = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    profiles: list[str] = field(default_factory=list)
    expires_at: float = 0.0
    intent: str = ""


def _snapshot(row: Row) -> SnapshotRecord:
    return SnapshotRecord(
        instance_id=row["instance_id"],
        name=row["name"],
        architecture=row["architecture"],
        created_at=row["created_at"],
        id=row["id"],
        description=row["description"],
        ephemeral=bool(row["ephemeral"]),
        stateful=bool(row["stateful"]),
        config=load(row["config"]),
        devices=load(row["devices"]),
        profiles=load(row["profiles"]),
        expires_at=row["expires_at"],
        intent=row["intent"],
    )


def of_instance(db: Database, instance_id: int) -> list[SnapshotRecord]:
    """The snapshots of an instance, oldest first."""
    rows = db.read().execute(
        "SELECT * FROM snapshots WHERE instance_id = ? ORDER BY created_at, id", (instance_id,)
    )
    return [_snapshot(row) for row in rows]


def of_all(db: Database) -> dict[int, list[SnapshotRecord]]:
    """Every snapshot, by the id of its instance, oldest first."""
    result: dict[int, list[SnapshotRecord]] = {}
    for row in db.read().execute("SELECT * FROM snapshots ORDER BY created_at, id"):
        result.setdefault(row["instance_id"], []).append(_snapshot(row))
    return result


def get(db: Database, instance_id: int, name: str) -> SnapshotRecord | None:
    row = (
        db.read()
        .execute("SELECT * FROM snapshots WHERE instance_id = ? AND name = ?", (instance_id, name))
        .fetchone()
    )
    return _snapshot(row) if row else None


def create(db: Database, record: SnapshotRecord) -> SnapshotRecord:
    """Insert the snapshot; the returned record has its id.

    :raises sqlite3.IntegrityError: the instance has one of this name.
    """
    with db.write() as conn:
        cursor = conn.execute(
            "INSERT INTO snapshots (instance_id, name, description, architecture, ephemeral,"
            " stateful, config, devices, profiles, created_at, expires_at, intent)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.instance_id,
                record.name,
                record.description,
                record.architecture,
                int(record.ephemeral),
                int(record.stateful),
                dump(record.config),
                dump(record.devices),
                dump(record.profiles),
                record.created_at,
                record.expires_at,
                record.intent,
            ),
        )
        return replace(record, id=int(cursor.lastrowid or 0))


_FIELDS = frozenset(("name", "description", "expires_at", "intent"))


def update(db: Database, snapshot_id: int, **fields: Any) -> None:
    """Set columns of a snapshot."""
    assert fields.keys() <= _FIELDS, fields
    names = ", ".join(f"{name} = ?" for name in fields)
    with db.write() as conn:
        conn.execute(f"UPDATE snapshots SET {names} WHERE id = ?", (*fields.values(), snapshot_id))


def delete(db: Database, snapshot_id: int) -> None:
    with db.write() as conn:
        conn.execute("DELETE FROM snapshots WHERE id = ?", (snapshot_id,))


def expired(db: Database, now: float) -> list[tuple[int, str]]:
    """(instance id, snapshot name) of the snapshots whose time has come."""
    rows = db.read().execute(
        "SELECT instance_id, name FROM snapshots WHERE expires_at > 0 AND expires_at <= ?"
        " ORDER BY expires_at",
        (now,),
    )
    return [(row["instance_id"], row["name"]) for row in rows]
