# SPDX-License-Identifier: Apache-2.0
"""Projects in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nova_lxd.lxd.db.connection import Database, Row, dump, load


@dataclass(frozen=True)
class Project:
    """One stored project; ``config`` holds the ``features.*`` and user keys."""

    id: int
    name: str
    description: str
    config: dict[str, str]

    def feature(self, name: str) -> bool:
        """Whether this project keeps its own ``name`` (images, profiles, networks, …)."""
        return self.config.get(f"features.{name}") == "true"


def _project(row: Row) -> Project:
    return Project(row["id"], row["name"], row["description"], load(row["config"]))


def get_all(db: Database) -> list[Project]:
    return [_project(r) for r in db.read().execute("SELECT * FROM projects ORDER BY name")]


def get(db: Database, name: str) -> Project | None:
    row = db.read().execute("SELECT * FROM projects WHERE name = ?", (name,)).fetchone()
    return _project(row) if row else None


def create(db: Database, name: str, description: str, config: Mapping[str, str]) -> None:
    """Insert the project and, when it keeps its own profiles, its default profile."""
    with db.write() as conn:
        cursor = conn.execute(
            "INSERT INTO projects (name, description, config) VALUES (?, ?, ?)",
            (name, description, dump(dict(config))),
        )
        if config.get("features.profiles") == "true":
            _add_default_profile(conn_project=int(cursor.lastrowid or 0), name=name, db=db)


def _add_default_profile(*, conn_project: int, name: str, db: Database) -> None:
    with db.write() as conn:
        conn.execute(
            "INSERT OR IGNORE INTO profiles (project_id, name, description) VALUES (?, ?, ?)",
            (conn_project, "default", f"Default LXD profile for project {name}"),
        )


def update(db: Database, name: str, description: str, config: Mapping[str, str]) -> None:
    with db.write() as conn:
        conn.execute(
            "UPDATE projects SET description = ?, config = ? WHERE name = ?",
            (description, dump(dict(config)), name),
        )
        if config.get("features.profiles") == "true":
            row = conn.execute("SELECT id FROM projects WHERE name = ?", (name,)).fetchone()
            _add_default_profile(conn_project=row["id"], name=name, db=db)


def rename(db: Database, old: str, new: str) -> None:
    with db.write() as conn:
        conn.execute("UPDATE projects SET name = ? WHERE name = ?", (new, old))


def delete(db: Database, name: str) -> None:
    with db.write() as conn:
        conn.execute("DELETE FROM projects WHERE name = ?", (name,))


def used_by(db: Database) -> dict[str, list[str]]:
    """API URLs of what lives in each project: instances, profiles, images, volumes, networks."""
    result: dict[str, list[str]] = {}
    queries = (
        ("/1.0/instances/", "SELECT p.name AS project, t.name AS name FROM instances t"),
        ("/1.0/profiles/", "SELECT p.name AS project, t.name AS name FROM profiles t"),
        ("/1.0/images/", "SELECT p.name AS project, t.fingerprint AS name FROM images t"),
        ("/1.0/networks/", "SELECT p.name AS project, t.name AS name FROM networks t"),
    )
    conn = db.read()
    for prefix, query in queries:
        rows = conn.execute(f"{query} JOIN projects p ON p.id = t.project_id ORDER BY 2")
        for row in rows:
            result.setdefault(row["project"], []).append(
                with_project(prefix + row["name"], row["project"])
            )
    rows = conn.execute(
        "SELECT p.name AS project, s.name AS pool, t.type, t.name FROM storage_volumes t"
        " JOIN projects p ON p.id = t.project_id JOIN storage_pools s ON s.id = t.pool_id"
        " WHERE t.type = 'custom' ORDER BY t.name"
    )
    for row in rows:
        url = f"/1.0/storage-pools/{row['pool']}/volumes/custom/{row['name']}"
        result.setdefault(row["project"], []).append(with_project(url, row["project"]))
    return result


def with_project(url: str, project: str) -> str:
    """LXD's form of a URL in ``used_by`` lists: the project is named unless it is default."""
    return url if project == "default" else f"{url}?project={project}"


def project_of(url: str) -> str:
    """The project of a URL that :func:`with_project` made."""
    return url.partition("?project=")[2] or "default"
