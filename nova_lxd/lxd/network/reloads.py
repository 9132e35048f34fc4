# SPDX-License-Identifier: Apache-2.0
"""Reloads of a program that may be asked for more often than they are worth: some become one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable


class Coalescer:
    """Runs an action at once when it was quiet for a while, else once at the end of that while.

    What dnsmasq does at each reload grows with the number of its hosts times that of its leases:
    a thousand nics that come or go in a row would spend most of their time there.

    :param interval: seconds between two runs of the same action.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._last: dict[Hashable, float] = {}
        self._pending: dict[Hashable, threading.Timer] = {}

    def request(self, key: Hashable, action: Callable[[], None]) -> None:
        """Have ``action`` run within the interval; requests with the same key are run as one."""
        with self._lock:
            if key in self._pending:
                return
            wait = self._last.get(key, -self._interval) + self._interval - time.monotonic()
            if wait > 0:
                timer = threading.Timer(wait, self._run, (key, action))
                timer.daemon = True  # a daemon that ends has its successor reload
                self._pending[key] = timer
                timer.start()
                return
            self._last[key] = time.monotonic()
        action()

    def run(self, key: Hashable, action: Callable[[], None]) -> None:
        """Run it now, and take requests so far as met."""
        with self._lock:
            waiting = self._pending.pop(key, None)
            self._last[key] = time.monotonic()
        if waiting is not None:
            waiting.cancel()
        action()

    def _run(self, key: Hashable, action: Callable[[], None]) -> None:
        with self._lock:
            if self._pending.pop(key, None) is None:
                return
            self._last[key] = time.monotonic()
        action()
