# SPDX-License-Identifier: Apache-2.0
"""Instances in the database.

``intent`` names what the daemon is about to do to the instance's volume (``create``, ``delete``,
``rename:NEW``, ``move:POOL``, ``restore:SNAPSHOT``); a daemon that starts and finds one finishes
or undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nova_lxd.lxd.db.connection import Database, Row, dump, load
from nova_lxd.lxd.db.profiles import Devices


@dataclass(frozen=True)
class InstanceRecord:
    """One stored instance: its own configuration, not what its profiles add."""

    project: str
    name: str
    architecture: str
    pool: str
    created_at: float
    id: int = 0
    type: str = "container"
    description: str = ""
    ephemeral: bool = False
    stateful: bool = False
    config: dict[str, str] = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    profiles: list[str] = field(default_factory=list)
    last_used_at: float = 0.0
    intent: str = ""

    @property
    def url(self) -> str:
        """The instance's API path."""
        return f"/1.0/instances/{self.name}"


_SELECT = "SELECT i.*, p.name AS project FROM instances i JOIN projects p ON p.id = i.project_id "


def _instance(row: Row) -> InstanceRecord:
    return InstanceRecord(
        project=row["project"],
        name=row["name"],
        architecture=row["architecture"],
        pool=row["pool"],
        created_at=row["created_at"],
        id=row["id"],
        type=row["type"],
        description=row["description"],
        ephemeral=bool(row["ephemeral"]),
        stateful=bool(row["stateful"]),
        config=load(row["config"]),
        devices=load(row["devices"]),
        profiles=load(row["profiles"]),
        last_used_at=row["last_used_at"],
        intent=row["intent"],
    )


def get_all(db: Database, project: str | None = None) -> list[InstanceRecord]:
    """The instances of one project, or of all, by name."""
    where, args = ("WHERE p.name = ? ", (project,)) if project is not None else ("", ())
    rows = db.read().execute(_SELECT + where + "ORDER BY p.name, i.name", args)
    return [_instance(row) for row in rows]


def get(db: Database, project: str, name: str) -> InstanceRecord | None:
    row = (
        db.read().execute(_SELECT + "WHERE p.name = ? AND i.name = ?", (project, name)).fetchone()
    )
    return _instance(row) if row else None


def get_by_id(db: Database, instance_id: int) -> InstanceRecord | None:
    row = db.read().execute(_SELECT + "WHERE i.id = ?", (instance_id,)).fetchone()
    return _instance(row) if row else None


def create(db: Database, record: InstanceRecord) -> InstanceRecord:
    """Insert the instance; the returned record has its id.

    :raises sqlite3.IntegrityError: the name is taken in its project.
    """
    with db.write() as conn:
        cursor = conn.execute(
            "INSERT INTO instances (project_id, name, type, architecture, description, ephemeral,"
            " stateful, config, devices, profiles, pool, created_at, last_used_at, intent)"
            " SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM projects WHERE name = ?",
            (
                record.name,
                record.type,
                record.architecture,
                record.description,
                int(record.ephemeral),
                int(record.stateful),
                dump(record.config),
                dump(record.devices),
                dump(record.profiles),
                record.pool,
                record.created_at,
                record.last_used_at,
                record.intent,
                record.project,
            ),
        )
        return replace(record, id=int(cursor.lastrowid or 0))


_JSON_FIELDS = frozenset(("config", "devices", "profiles"))
_FIELDS = _JSON_FIELDS | {
    "architecture",
    "description",
    "ephemeral",
    "stateful",
    "pool",
    "created_at",
    "last_used_at",
    "intent",
}


def update(db: Database, instance_id: int, **fields: Any) -> None:
    """Set columns of an instance; maps and lists are given as such."""
    assert fields.keys() <= _FIELDS, fields
    names = ", ".join(f"{name} = ?" for name in fields)
    values = [
        dump(value) if name in _JSON_FIELDS else int(value) if isinstance(value, bool) else value
        for name, value in fields.items()
    ]
    with db.write() as conn:
        conn.execute(f"UPDATE instances SET {names} WHERE id = ?", (*values, instance_id))


def set_config(
    db: Database, instance_id: int, changes: Mapping[str, str | None], **fields: Any
) -> dict[str, str]:
    """Set (or with None remove) single config keys, and columns, in one transaction.

    Returns the configuration that is stored now.
    """
    with db.write() as conn:
        row = conn.execute("SELECT config FROM instances WHERE id = ?", (instance_id,)).fetchone()
        if row is None:
            return {}
        config: dict[str, str] = load(row["config"])
        for key, value in changes.items():
            if value is None:
                config.pop(key, None)
            else:
                config[key] = value
        update(db, instance_id, config=config, **fields)
        return config


def rename(db: Database, instance_id: int, project: str, name: str) -> None:
    """Give the instance another name, in the same or another project.

    :raises sqlite3.IntegrityError: the name is taken there.
    """
    with db.write() as conn:
        conn.execute(
            "UPDATE instances SET name = ?,"
            " project_id = (SELECT id FROM projects WHERE name = ?) WHERE id = ?",
            (name, project, instance_id),
        )


def delete(db: Database, instance_id: int) -> None:
    """Remove the instance with the records of its snapshots and backups."""
    with db.write() as conn:
        conn.execute("DELETE FROM instances WHERE id = ?", (instance_id,))


def with_profile(db: Database, project: str, profile: str) -> list[InstanceRecord]:
    """The instances that use a profile stored in ``project`` (see features.profiles)."""
    rows = db.read().execute(
        _SELECT + "WHERE EXISTS (SELECT 1 FROM json_each(i.profiles) WHERE value = ?)"
        " AND (p.name = ? OR (? = 'default'"
        " AND coalesce(p.config ->> '$.\"features.profiles\"', 'false') <> 'true'))"
        " ORDER BY i.id",
        (profile, project, project),
    )
    return [_instance(row) for row in rows]


def names(db: Database, project: str) -> Sequence[str]:
    """The names in use in one project."""
    rows = db.read().execute(
        "SELECT i.name FROM instances i JOIN projects p ON p.id = i.project_id WHERE p.name = ?",
        (project,),
    )
    return [row["name"] for row in rows]
