# SPDX-License-Identifier: Apache-2.0
"""The daemon's database: one SQLite file, many readers, one writer at a time.

Readers use a connection of their own thread and see the last committed state (WAL); writers take
turns under one lock, each in one transaction that is on disk (synchronous=FULL) when it returns.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from nova_lxd.lxd.db.migrations import MIGRATIONS
from nova_lxd.lxd.errors import InternalError, LXDError, NoSpace, Unavailable

Row = sqlite3.Row
# What the disk or the host does to a database whose statements are right.
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_OF_THE_HOST = frozenset(
    (
        *_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
    )
)


def _refused(exc: sqlite3.Error) -> LXDError | None:
    """The error for what the host refused the database; None when the statement is wrong."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest tells of what kind it is
    if code not in _OF_THE_HOST:
        return None
    if code == sqlite3.SQLITE_FULL:
        return NoSpace(f"Using the daemon's database failed: {exc}; free space below LXD_DIR")
    if code in _BUSY:
        return Unavailable(f"Using the daemon's database failed: {exc}; try again later")
    return Unavailable(
        f"Using the daemon's database failed: {exc}; look whether the disk below LXD_DIR is full "
        "or broken, and how many files the daemon may open"
    )


class Cursor(sqlite3.Cursor):
    """A cursor whose errors, where the host is to blame, are the daemon's own."""

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        try:
            return super().execute(sql, parameters)
        except sqlite3.Error as exc:
            if (refused := _refused(exc)) is not None:
                raise refused from exc
            raise


class Connection(sqlite3.Connection):
    """A connection whose ``execute`` raises NoSpace or Unavailable where the host is to blame."""

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        return self.cursor(Cursor).execute(sql, parameters)


class Database:
    """The open database; :meth:`read` and :meth:`write` hand out connections.

    :raises InternalError: the file was written by a newer version of the daemon.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._write_lock = threading.RLock()
        #: Grows with every commit: what was read at the same number is still true.
        self.generation = 0
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writer = self._connect()
        self._migrate()

    def _connect(self) -> sqlite3.Connection:
        try:
            conn = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, factory=Connection
            )
        except sqlite3.Error as exc:
            if (refused := _refused(exc)) is not None:
                raise refused from exc
            raise
        conn.row_factory = sqlite3.Row
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("PRAGMA synchronous=FULL")
        conn.execute("PRAGMA foreign_keys=ON")
        conn.execute("PRAGMA busy_timeout=10000")
        return conn

    def _migrate(self) -> None:
        version = int(self._writer.execute("PRAGMA user_version").fetchone()[0])
        newest = len(MIGRATIONS)
        if version > newest:
            raise InternalError(
                f"Opening the database {self._path} failed: it has schema {version}, written by a "
                f"newer version than this one (schema {newest}); upgrade this daemon"
            )
        if 0 < version < newest:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copy2(self._path, f"{self._path}.schema{version}")
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            with self.write() as conn:
                for statement in statements:
                    conn.execute(statement)
                conn.execute(f"PRAGMA user_version={number}")

    def read(self) -> sqlite3.Connection:
        """This thread's own connection, for SELECT only."""
        conn: sqlite3.Connection | None = getattr(self._local, "conn", None)
        if conn is None:
            conn = self._connect()
            conn.execute("PRAGMA query_only=ON")
            self._local.conn = conn
            self._readers.append(conn)
        return conn

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed when the block ends, rolled back when it raises.

        One that cannot be committed is rolled back, too: what came next would be taken for a part
        of it, and be lost with it.
        """
        with self._write_lock:
            if self._writer.in_transaction:  # nested: part of the outer transaction
                yield self._writer
                return
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # SQLite ends it itself after some errors
                    self._writer.execute("ROLLBACK")
                raise
            self.generation += 1

    def close(self) -> None:
        """Close every connection; the last one folds the write-ahead log into the file."""
        with self._write_lock:
            for conn in self._readers:
                conn.close()
            self._readers.clear()
            self._writer.close()


def dump(value: Any) -> str:
    """JSON text of a config, device or property map, stable so that equal values compare equal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def load(text: str) -> Any:
    return json.loads(text)
