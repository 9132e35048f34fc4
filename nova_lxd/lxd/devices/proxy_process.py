# SPDX-License-Identifier: Apache-2.0
"""The pid file of a proxy's forwarder: the process and when it started.

A pid alone may belong to another process after a while; together with the start time it cannot.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from nova_lxd.lxd.network.processes import end_process, start_time


def find(pid_file: str) -> int | None:
    """The running forwarder that a pid file names, None when there is none."""
    try:
        pid, started = map(int, Path(pid_file).read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    return pid if start_time(pid) == started else None


def end(pid_file: str) -> None:
    """End the forwarder and wait for it; idempotent."""
    pid = find(pid_file)
    if pid is not None:
        end_process(pid)
    with contextlib.suppress(FileNotFoundError):
        Path(pid_file).unlink()
