# SPDX-License-Identifier: Apache-2.0
"""Transactions that fail at their end do not take later ones with them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database


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
