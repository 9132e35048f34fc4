# SPDX-License-Identifier: Apache-2.0
"""Profiles in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nova_lxd.lxd.db.connection import Database, Row, dump, load

Devices = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Profile:
    """One stored profile of one project."""

    project: str
    name: str
    description: str
    config: dict[str, str]
    devices: Devices


_SELECT = "SELECT p.*, j.name AS project FROM profiles p JOIN projects j ON j.id = p.project_id "


def _profile(row: Row) -> Profile:
    return Profile(
        row["project"], row["name"], row["description"], load(row["config"]), load(row["devices"])
    )


def get_all(db: Database, project: str | None = None) -> list[Profile]:
    """The profiles of one project, or of all."""
    where, args = ("WHERE j.name = ? ", (project,)) if project is not None else ("", ())
    return [_profile(r) for r in db.read().execute(_SELECT + where + "ORDER BY p.id", args)]


def get(db: Database, project: str, name: str) -> Profile | None:
    row = (
        db.read().execute(_SELECT + "WHERE j.name = ? AND p.name = ?", (project, name)).fetchone()
    )
    return _profile(row) if row else None


def create(
    db: Database,
    project: str,
    name: str,
    description: str,
    config: Mapping[str, str],
    devices: Mapping[str, Mapping[str, str]],
) -> None:
    with db.write() as conn:
        conn.execute(
            "INSERT INTO profiles (project_id, name, description, config, devices)"
            " SELECT id, ?, ?, ?, ? FROM projects WHERE name = ?",
            (name, description, dump(dict(config)), dump(devices), project),
        )


def update(
    db: Database,
    project: str,
    name: str,
    description: str,
    config: Mapping[str, str],
    devices: Mapping[str, Mapping[str, str]],
) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE profiles SET description = ?, config = ?, devices = ?"
            " WHERE name = ? AND project_id = (SELECT id FROM projects WHERE name = ?)",
            (description, dump(dict(config)), dump(devices), name, project),
        )


def rename(db: Database, project: str, old: str, new: str) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE profiles SET name = ?"
            " WHERE name = ? AND project_id = (SELECT id FROM projects WHERE name = ?)",
            (new, old, project),
        )


def delete(db: Database, project: str, name: str) -> None:
    with db.write() as conn:
        conn.execute(
            "DELETE FROM profiles"
            " WHERE name = ? AND project_id = (SELECT id FROM projects WHERE name = ?)",
            (name, project),
        )
