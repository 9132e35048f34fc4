# SPDX-License-Identifier: Apache-2.0
"""Warnings: what an administrator should know, kept until acknowledged (LXD: /1.0/warnings)."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from nova_lxd.lxd.db.connection import Database, Row
from nova_lxd.lxd.errors import BadRequest, NotFound

_STATUSES = ("new", "acknowledged", "resolved")


@dataclass(frozen=True)
class Warning:
    """One stored warning."""

    uuid: str
    project: str
    type: str
    entity_url: str
    status: str
    severity: str
    last_message: str
    count: int
    first_seen_at: float
    last_seen_at: float


def _warning(row: Row) -> Warning:
    return Warning(**{key: row[key] for key in row.keys()})  # noqa: SIM118 - Row has no items


class Warnings:
    """The table of warnings."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def all(self, project: str | None = None) -> list[Warning]:
        rows = self._db.read().execute("SELECT * FROM warnings ORDER BY last_seen_at DESC")
        found = [_warning(row) for row in rows]
        return [w for w in found if project is None or w.project in ("", project)]

    def get(self, wanted: str) -> Warning:
        """:raises NotFound: there is no such warning."""
        row = (
            self._db.read().execute("SELECT * FROM warnings WHERE uuid = ?", (wanted,)).fetchone()
        )
        if row is None:
            raise NotFound("Warning not found")
        return _warning(row)

    def warn(
        self,
        kind: str,
        message: str,
        *,
        project: str = "",
        entity_url: str = "",
        severity: str = "low",
    ) -> None:
        """Record a warning; one of the same type and entity is counted up instead."""
        now = time.time()
        with self._db.write() as conn:
            updated = conn.execute(
                "UPDATE warnings SET last_message = ?, count = count + 1, last_seen_at = ?,"
                " status = CASE status WHEN 'resolved' THEN 'new' ELSE status END"
                " WHERE type = ? AND project = ? AND entity_url = ?",
                (message, now, kind, project, entity_url),
            )
            if updated.rowcount == 0:
                conn.execute(
                    "INSERT INTO warnings (uuid, project, type, entity_url, severity,"
                    " last_message, first_seen_at, last_seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (str(uuid.uuid4()), project, kind, entity_url, severity, message, now, now),
                )

    def resolve(self, kind: str, *, project: str = "", entity_url: str = "") -> None:
        """Mark a warning as resolved when its cause is gone."""
        with self._db.write() as conn:
            conn.execute(
                "UPDATE warnings SET status = 'resolved' WHERE type = ? AND project = ?"
                " AND entity_url = ? AND status != 'resolved'",
                (kind, project, entity_url),
            )

    def set_status(self, wanted: str, status: str) -> None:
        """:raises BadRequest: an unknown status.  :raises NotFound: no such warning."""
        if status not in _STATUSES:
            raise BadRequest(f"Unknown warning status {status!r}: use one of {_STATUSES}")
        self.get(wanted)
        with self._db.write() as conn:
            conn.execute("UPDATE warnings SET status = ? WHERE uuid = ?", (status, wanted))

    def delete(self, wanted: str) -> None:
        """:raises NotFound: no such warning."""
        self.get(wanted)
        with self._db.write() as conn:
            conn.execute("DELETE FROM warnings WHERE uuid = ?", (wanted,))
