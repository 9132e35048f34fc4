# SPDX-License-Identifier: Apache-2.0
"""The kernel's grace period before a process moves to other control groups, begun ahead of time.

A move waits until no fork is under way on any processor; unless another one was made a few
milliseconds before, that takes a grace period of RCU, 5 to 15 ms.  A start and an exec each move a
process, but have much to do first: meanwhile a move that changes nothing waits in their place.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from nova_lxd.lxd.host import cgroups

LOG = logging.getLogger(__name__)
_OWN = Path("/proc/self/cgroup")
_MYSELF = b"0"


def stay() -> None:
    """Move this process into the control group that it is in.

    :raises OSError: the host's control groups are read-only for us, as in some containers.
    """
    layout = cgroups.layout()
    for line in _OWN.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        name = controllers.split(",")[0].removeprefix("name=")
        tree = layout.v1.get(name) if name else layout.unified
        if tree is not None:
            (tree.path(group) / "cgroup.procs").write_bytes(_MYSELF)
            return


class GracePeriod:
    """Begins the grace period whenever somebody is about to need it, on a thread of its own."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="grace-period", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def begin(self) -> None:
        """A process will be moved in some milliseconds; returns at once."""
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing:
                return
            try:
                stay()
            except OSError as exc:  # it only costs time
                LOG.debug("Grace periods are not begun ahead of time: %s", exc)
                return
