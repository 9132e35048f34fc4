# SPDX-License-Identifier: Apache-2.0
"""The trust store: certificates of remote clients, by fingerprint."""

from __future__ import annotations

from dataclasses import dataclass, field

from nova_lxd.lxd.db.connection import Database, Row, dump, load


@dataclass(frozen=True)
class Certificate:
    """One trusted certificate; a restricted one may see only ``projects``."""

    fingerprint: str
    type: str
    name: str
    certificate: str
    restricted: bool = False
    projects: list[str] = field(default_factory=list)


def _certificate(row: Row) -> Certificate:
    return Certificate(
        row["fingerprint"],
        row["type"],
        row["name"],
        row["certificate"],
        bool(row["restricted"]),
        load(row["projects"]),
    )


def get_all(db: Database) -> list[Certificate]:
    rows = db.read().execute("SELECT * FROM certificates ORDER BY fingerprint")
    return [_certificate(row) for row in rows]


def find(db: Database, prefix: str) -> list[Certificate]:
    """The certificates whose fingerprint begins with ``prefix``."""
    return [c for c in get_all(db) if prefix and c.fingerprint.startswith(prefix)]


def put(db: Database, cert: Certificate) -> None:
    """Insert the certificate or replace the one of the same fingerprint."""
    with db.write() as conn:
        conn.execute(
            "INSERT OR REPLACE INTO certificates"
            " (fingerprint, type, name, restricted, projects, certificate)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                cert.fingerprint,
                cert.type,
                cert.name,
                int(cert.restricted),
                dump(cert.projects),
                cert.certificate,
            ),
        )


def delete(db: Database, fingerprint: str) -> None:
    with db.write() as conn:
        conn.execute("DELETE FROM certificates WHERE fingerprint = ?", (fingerprint,))
