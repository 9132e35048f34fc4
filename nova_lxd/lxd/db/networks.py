# SPDX-License-Identifier: Apache-2.0
"""Managed networks in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nova_lxd.lxd.db.connection import Database, Row, dump, load


@dataclass(frozen=True)
class NetworkRow:
    """One stored network."""

    project: str
    name: str
    type: str
    description: str
    config: dict[str, str]
    status: str


_SELECT = "SELECT n.*, p.name AS project FROM networks n JOIN projects p ON p.id = n.project_id "


def _network(row: Row) -> NetworkRow:
    return NetworkRow(
        row["project"],
        row["name"],
        row["type"],
        row["description"],
        load(row["config"]),
        row["status"],
    )


def get_all(db: Database, project: str | None = None) -> list[NetworkRow]:
    """The networks of one project, or of all."""
    where, args = ("WHERE p.name = ? ", (project,)) if project is not None else ("", ())
    return [_network(r) for r in db.read().execute(_SELECT + where + "ORDER BY n.name", args)]


def get(db: Database, project: str, name: str) -> NetworkRow | None:
    row = (
        db.read().execute(_SELECT + "WHERE p.name = ? AND n.name = ?", (project, name)).fetchone()
    )
    return _network(row) if row else None


def create(db: Database, network: NetworkRow) -> None:
    with db.write() as conn:
        conn.execute(
            "INSERT INTO networks (project_id, name, type, description, config, status)"
            " SELECT id, ?, ?, ?, ?, ? FROM projects WHERE name = ?",
            (
                network.name,
                network.type,
                network.description,
                dump(network.config),
                network.status,
                network.project,
            ),
        )


def update(
    db: Database,
    project: str,
    name: str,
    description: str,
    config: Mapping[str, str],
    status: str,
) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE networks SET description = ?, config = ?, status = ? WHERE name = ?"
            " AND project_id = (SELECT id FROM projects WHERE name = ?)",
            (description, dump(dict(config)), status, name, project),
        )


def rename(db: Database, project: str, old: str, new: str) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE networks SET name = ? WHERE name = ?"
            " AND project_id = (SELECT id FROM projects WHERE name = ?)",
            (new, old, project),
        )


def delete(db: Database, project: str, name: str) -> None:
    with db.write() as conn:
        conn.execute(
            "DELETE FROM networks WHERE name = ?"
            " AND project_id = (SELECT id FROM projects WHERE name = ?)",
            (name, project),
        )
