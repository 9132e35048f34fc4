# SPDX-License-Identifier: Apache-2.0
"""Where the time of an action goes: one line at debug level, or an operation's metadata."""

from __future__ import annotations

import logging
import time

LOG = logging.getLogger(__name__)


class Trace:
    """The steps of one action and the milliseconds each took."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.steps: list[tuple[str, float]] = []
        self._begin = self._last = time.perf_counter()

    def step(self, name: str) -> None:
        """What happened since the last step was ``name``."""
        now = time.perf_counter()
        self.steps.append((name, (now - self._last) * 1000))
        self._last = now

    def done(self) -> None:
        """Log the whole."""
        if LOG.isEnabledFor(logging.DEBUG):
            total = (time.perf_counter() - self._begin) * 1000
            parts = ", ".join(f"{name} {ms:.1f}" for name, ms in self.steps)
            LOG.debug("%s took %.1f ms: %s", self.what, total, parts)

    def metadata(self) -> dict[str, str]:
        """The steps for an operation's metadata."""
        return {f"timing.{name}": f"{ms:.1f}ms" for name, ms in self.steps}
