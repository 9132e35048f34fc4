# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: to a file or stderr, and to clients as ``logging`` events."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from nova_lxd.lxd.events import Events

LOG = logging.getLogger(__name__)
_LEVELS = {"CRITICAL": "error", "WARNING": "warning", "ERROR": "error", "INFO": "info"}
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _without_trace(record: logging.LogRecord) -> bool:
    """aiohttp logs a request that is no HTTP with a traceback; it is the client's mistake."""
    from aiohttp.http_exceptions import HttpProcessingError  # slow; the client commands log too

    cause = record.exc_info[1] if record.exc_info else None
    if isinstance(cause, HttpProcessingError):
        LOG.info("A request could not be read: %s", " ".join(str(cause).split()))
        return False
    return True


def set_up(logfile: str | None, verbose: bool, debug: bool) -> None:
    """Log warnings (info with ``verbose``, all with ``debug``) to stderr or ``logfile``."""
    handler: logging.Handler
    if logfile:
        handler = logging.FileHandler(Path(logfile))
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger("aiohttp.server").addFilter(_without_trace)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)


class LoggingEvents(logging.Handler):
    """Turns log records into events while somebody listens."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        if not self._events.wanted("logging"):
            return
        level = _LEVELS.get(record.levelname, "debug")
        self._events.publish(
            "logging", "", {"message": record.getMessage(), "level": level, "context": {}}
        )
