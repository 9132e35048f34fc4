# SPDX-License-Identifier: Apache-2.0
"""What becomes of transactions that fail, and what the host's refusals are told as."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.errors import NoSpace, Unavailable


def test_what_follows_a_failed_commit_is_kept(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    with pytest.raises(sqlite3.IntegrityError), database.write() as conn:
        conn.execute("CREATE TABLE child (id INTEGER REFERENCES instances (id))")
        conn.execute("PRAGMA defer_foreign_keys=ON")
        conn.execute("INSERT INTO child VALUES (12345)")  # seen at COMMIT only
    db_projects.create(database, "later", "", {})
    database.close()
    reopened = Database(tmp_path / "db")
    assert db_projects.get(reopened, "later") is not None
    reopened.close()


def test_a_full_database_is_told_as_that(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    with database.write() as conn:
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        conn.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(NoSpace, match="database"):
        for number in range(1000):
            db_projects.create(database, f"p{number}", "x" * 4000, {})
    database.close()


def test_a_busy_or_broken_database_is_told_as_that(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    with database.write() as conn:
        conn.execute("PRAGMA busy_timeout=10")
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        db_projects.create(database, "late", "", {})
    other.close()
    database.close()
    (tmp_path / "broken").write_bytes(b"no database at all" * 1000)
    with pytest.raises(Unavailable, match="not a database"):
        Database(tmp_path / "broken")


def test_a_wrong_statement_is_the_programmers(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        database.read().execute("SELECT * FROM nonesuch")
    database.close()
