# SPDX-License-Identifier: Apache-2.0
"""The faults of the cloud run; the cloud's own supervisor starts again what is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NR_PIDFD_OPEN, _NR_PIDFD_GETFD = 434, 438
_libc = ctypes.CDLL(None, use_errno=True)


def _pid(cloud: Any, service: str) -> int:
    pid: int = cloud.controller.condition(cloud.on(cloud.first_host, service)).pid
    return pid


def _kill(service: str) -> Callable[[Any], None]:
    def inject(cloud: Any) -> None:
        pid = _pid(cloud, service)
        assert pid, f"{service} does not run"
        os.kill(pid, signal.SIGKILL)

    return inject


def _call(number: int, *arguments: int) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def stream(cloud: Any) -> None:
    """Shut every connection of the daemon's unix socket: the driver's event stream among them."""
    pid = _pid(cloud, "lxd")
    pidfd = _call(_NR_PIDFD_OPEN, pid, 0)
    count = 0
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                kind = str(Path(f"/proc/{pid}/fd/{entry}").readlink())
                if not kind.startswith("socket:"):
                    continue
                fd = _call(_NR_PIDFD_GETFD, pidfd, int(entry), 0)
            except FileNotFoundError:  # closed meanwhile
                continue
            except OSError as exc:
                if exc.errno == 9:  # EBADF: likewise
                    continue
                raise
            with socket.socket(fileno=fd) as connection:
                count += _shut(connection)
    finally:
        os.close(pidfd)
    assert count, "the driver has no connection to the daemon"


def _shut(connection: socket.socket) -> bool:
    if connection.family != socket.AF_UNIX:
        return False
    if not str(connection.getsockname()).endswith("/unix.socket"):
        return False
    try:
        connection.getpeername()
    except OSError:  # the listening socket has no peer
        return False
    connection.shutdown(socket.SHUT_RDWR)
    return True


def none(_cloud: Any) -> None:
    """Nothing: the round shows that the run itself is sound."""


FAULTS: dict[str, Callable[[Any], None]] = {
    "none": none,
    "nova-compute": _kill("nova-compute"),
    "daemon": _kill("lxd"),
    "ovs-vswitchd": _kill("ovs-vswitchd"),
    "stream": stream,
}
