# SPDX-License-Identifier: Apache-2.0
"""Server configuration (``/1.0``'s config map) in the database."""

from __future__ import annotations

from collections.abc import Mapping

from nova_lxd.lxd.db.connection import Database


def get_all(db: Database) -> dict[str, str]:
    """Every server key that is set."""
    return {row["key"]: row["value"] for row in db.read().execute("SELECT * FROM config")}


def replace_all(db: Database, values: Mapping[str, str]) -> None:
    """Make ``values`` the whole server configuration."""
    with db.write() as conn:
        conn.execute("DELETE FROM config")
        for item in values.items():
            conn.execute("INSERT INTO config VALUES (?, ?)", item)
