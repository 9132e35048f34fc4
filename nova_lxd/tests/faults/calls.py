# SPDX-License-Identifier: Apache-2.0
"""Calls to a daemon that may end in the middle: what came of one is told by exception."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

from nova_lxd.tests.functional.daemon import Answer, Daemon

_TIMEOUT = 90


class Cut(Exception):
    """The answer was lost: the call may have happened or not."""


class Refused(Exception):
    """The daemon said that the call failed."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status} {sentence}")
        self.status = status


class Caller:
    """One client of a daemon.

    :param way: the socket that it uses, which may be cut in the midst of a call.
    """

    def __init__(self, daemon: Daemon, way: Path) -> None:
        self.daemon = daemon
        self._way = way

    def api(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Answer:
        """One request.

        :raises Cut: no answer came.  :raises Refused: it was an error.
        """
        try:
            answer = self.daemon.api(
                method, path, body, timeout=_TIMEOUT, socket=self._way, **kwargs
            )
        except (OSError, http.client.HTTPException) as exc:
            raise Cut from exc
        if answer.status >= 400:
            raise Refused(answer.status, answer.error)
        return answer

    def operate(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A request whose operation is waited for; the finished operation."""
        return self.wait(self.api(method, path, body).body["operation"])

    def wait(self, operation: str) -> dict[str, Any]:
        """The end of an operation."""
        try:
            waited = self.api("GET", f"{operation}/wait?timeout={_TIMEOUT}")
        except Refused as exc:  # the daemon that ran it is gone
            raise Cut from exc
        done: dict[str, Any] = waited.metadata
        if done["status_code"] != 200:
            raise Refused(done["status_code"], f"{done['description']}: {done['err']}")
        return done

    def found(self, path: str) -> Any:
        """What is at a path; None when there is nothing."""
        try:
            return self.api("GET", path).metadata
        except Refused as exc:
            if exc.status == 404:
                return None
            raise
