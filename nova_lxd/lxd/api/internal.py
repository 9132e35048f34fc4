# SPDX-License-Identifier: Apache-2.0
"""/internal/sql: a read-only look into the database for ``nova-lxd sql`` (local socket only)."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.errors import BadRequest

_MAX_ROWS = 100_000


class SqlPost(msgspec.Struct):
    """Body of POST /internal/sql."""

    database: str = ""
    query: str = ""


def _check_database(name: str) -> None:
    if name not in ("local", "global"):
        raise BadRequest("Invalid database: use local or global")


def _dump(db: Database, schema_only: bool) -> str:
    lines = []
    for line in db.read().iterdump():
        if not schema_only or not line.startswith(("INSERT", "BEGIN", "COMMIT")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def _query(db: Database, text: str) -> list[dict[str, Any]]:
    results = []
    for statement in (part.strip() for part in text.split(";")):
        if not statement:
            continue
        try:
            cursor = db.read().execute(statement)
        except (sqlite3.Error, sqlite3.Warning) as exc:
            raise BadRequest(f"Running the query failed: {exc}; only reading is allowed") from exc
        columns = [column[0] for column in cursor.description or ()]
        rows = [list(row) for row in cursor.fetchmany(_MAX_ROWS)]
        results.append(
            {"type": "select", "columns": columns, "rows": rows or None, "rows_affected": 0}
        )
    return results


@route("GET", "/internal/sql", local=True)
async def get_sql(request: Request) -> web.StreamResponse:
    """Dump the database, or only its schema, as SQL text."""
    _check_database(request.query("database"))
    text = await request.run(_dump, request.services.db, request.query("schema") == "1")
    return envelope.sync({"text": text})


@route("POST", "/internal/sql", local=True, body=SqlPost)
async def post_sql(request: Request) -> web.StreamResponse:
    """Run SELECT statements; writing is refused by the connection itself."""
    body = await request.body(SqlPost)
    _check_database(body.database)
    return envelope.sync({"Results": await request.run(_query, request.services.db, body.query)})
