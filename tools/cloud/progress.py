# SPDX-License-Identifier: Apache-2.0
"""Lines on the terminal: what was done, how long it took, what is still running."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType


class Progress:
    """Prints one line per finished step, and a sign of life after a silence."""

    SILENCE_SECONDS = 20.0

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = self._started
        self._running: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._ticker.join()

    @property
    def elapsed(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self._started

    def begin(self, name: str) -> None:
        with self._lock:
            self._running[name] = time.monotonic()

    def end(self, name: str, outcome: str) -> None:
        """Report ``name`` as finished, with the seconds it took; nothing when nothing was done."""
        with self._lock:
            took = time.monotonic() - self._running.pop(name)
            if outcome:
                self._print(f"{outcome:<5} {name} ({took:.1f} s)")

    def note(self, text: str) -> None:
        with self._lock:
            self._print(f"note  {text}")

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"[{self.elapsed:6.1f} s] {text}", flush=True, file=sys.stdout)

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            with self._lock:
                now = time.monotonic()
                if self._running and now - self._last >= self.SILENCE_SECONDS:
                    running = ", ".join(
                        f"{name} ({now - since:.0f} s)" for name, since in self._running.items()
                    )
                    self._print(f"...   {running}")
