# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive the daemon and are found again: when they started, and their end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from nova_lxd.lxd.errors import InternalError

_STOP_TIMEOUT = 5.0


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the program's name, may hold spaces and parentheses.
    return int(text.rpartition(")")[2].split()[19])


def end_process(pid: int, timeout: float = _STOP_TIMEOUT) -> None:
    """SIGTERM a process, SIGKILL it after ``timeout`` seconds, return when it has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], timeout)[0]:
                return
        raise InternalError(f"Process {pid} did not end after SIGKILL; look at its state")
    finally:
        os.close(handle)
