# SPDX-License-Identifier: Apache-2.0
"""The two processes of a running container, its init and its monitor, and what is done with them.

No liblxc here: signals and waits go through process descriptors, so that they block nobody else
and never hit a process that took over a number.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host import cgroups

LOG = logging.getLogger(__name__)
SYSTEMD_HALT = signal.SIGRTMIN + 3
# To clean up and run its hooks.
_MONITOR_PATIENCE = 5.0


def send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    signal.pidfd_send_signal(pidfd, number)


def wait_end(pidfd: int, timeout: float | None) -> bool:
    """Wait until the process has ended; False when it runs on after ``timeout`` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0, timeout * 1000)))


def status_field(pid: int, field: str) -> str:
    """One field of /proc/PID/status.

    :raises ProcessLookupError: there is no such process.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError as exc:
        raise ProcessLookupError(f"process {pid} has ended") from exc
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return line.partition(":")[2].strip()
    raise KeyError(field)


@dataclass
class Running:
    """A running container: pids and process descriptors of its init and its monitor.

    ``pidfd`` becomes readable when init has ended, ``monitor_pidfd`` when liblxc has cleaned up
    and run its hooks.  Close it when the container has stopped.
    """

    init: int
    monitor: int
    pidfd: int
    monitor_pidfd: int

    @classmethod
    def of_init(cls, pid: int) -> Running:
        """Take hold of the container whose init is ``pid``.

        :raises ProcessLookupError: it has ended.
        """
        with contextlib.ExitStack() as undo:
            pidfd = os.pidfd_open(pid)
            undo.callback(os.close, pidfd)
            monitor = int(status_field(pid, "PPid"))
            monitor_pidfd = os.pidfd_open(monitor)
            undo.pop_all()
        return cls(pid, monitor, pidfd, monitor_pidfd)

    def close(self) -> None:
        """Close the process descriptors; the container runs on."""
        for fd in (self.pidfd, self.monitor_pidfd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.monitor_pidfd = -1

    @property
    def alive(self) -> bool:
        """Does init still run?"""
        return not wait_end(self.pidfd, 0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the container has ended and liblxc has cleaned up; False on time-out."""
        return wait_end(self.monitor_pidfd, timeout)

    def signal(self, number: int) -> None:
        """Send a signal to init; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            send_signal(self.pidfd, number)

    def kill(self, timeout: float = 30.0) -> None:
        """End the container at once and wait for liblxc's clean-up.

        A container frozen by cgroup v1 dies only once it is thawed.

        :raises InternalError: see :meth:`wait_or_end_monitor`.
        """
        self.signal(signal.SIGKILL)
        cgroups.thaw_process(self.init)
        self.wait_or_end_monitor(timeout)

    def wait_or_end_monitor(self, timeout: float) -> None:
        """Wait for liblxc's clean-up after init's end; a monitor that is stuck is killed.

        What such a one leaves is for :func:`kill_leftovers`.

        :raises InternalError: init goes on.
        """
        if self.wait(timeout):
            return
        if self.alive:
            raise InternalError(
                f"Stopping the container of process {self.init} failed: it has not ended "
                f"{timeout:g} s after it was killed"
            )
        LOG.warning("monitor %d is stuck: killing it", self.monitor)
        with contextlib.suppress(ProcessLookupError):
            send_signal(self.monitor_pidfd, signal.SIGKILL)
        self.wait(timeout)

    def halt_signal(self) -> int:
        """What asks this init to shut down: SIGRTMIN+3 if it waits for that, else SIGPWR."""
        blocked = int(status_field(self.init, "SigBlk"), 16)
        return SYSTEMD_HALT if blocked >> (SYSTEMD_HALT - 1) & 1 else signal.SIGPWR

    def shutdown(self, number: int = 0) -> None:
        """Ask init to shut down and do not wait; ``number`` is ``lxc.signal.halt`` when set."""
        with contextlib.suppress(ProcessLookupError):
            send_signal(self.pidfd, number or self.halt_signal())

    def reboot(self) -> None:
        """Ask init to reboot (SIGINT) and do not wait."""
        self.signal(signal.SIGINT)


def monitors(lxcpath: str, name: str) -> list[int]:
    """The pids of a container's monitors, known by the title that liblxc gives them."""
    title = f"[lxc monitor] {lxcpath} {name}".encode()
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if (path / "cmdline").read_bytes().strip(b" \0") == title:
                    found.append(int(path.name))
    return found


def children(pid: int) -> list[int]:
    """The pids of a process's children; none when it has ended."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


def first_child(pid: int) -> int:
    """The pid of a process's first child, -1 when it has none or has ended."""
    return next(iter(children(pid)), -1)


def zombies(pid: int) -> list[int]:
    """The children of a process that have ended and for which it has not waited."""
    return [child for child in children(pid) if is_zombie(child)]


def is_zombie(pid: int) -> bool:
    """Has the process ended, but for its parent's taking note of it?"""
    try:
        return status_field(pid, "State").startswith("Z")
    except ProcessLookupError:
        return False


def runs_its_own(init: int) -> bool:
    """Does a container's init run its own program: not ended, nor still liblxc on its way?"""
    try:
        return not os.path.samefile(f"/proc/{init}/exe", "/proc/self/exe")
    except (FileNotFoundError, ProcessLookupError):  # so it is for a zombie
        return False


def kill_leftovers(cgroup_dir: str, name: str, timeout: float = 10.0) -> None:
    """End what is left of a container that does not run: whose start or monitor was killed.

    liblxc does not see such a container, and the next start would land in other groups beside it.
    A monitor ends with its last process by itself, unless it is stuck in the midst of the start.

    :param cgroup_dir: the ``lxc.cgroup.dir`` with which it was started.
    :raises InternalError: some processes are left after ``timeout`` seconds.
    """
    payload, monitor = (f"{cgroup_dir}/lxc.{kind}.{name}" for kind in ("payload", "monitor"))
    _end_group(payload, timeout, patience=0.0)
    _end_group(monitor, timeout, patience=_MONITOR_PATIENCE)


def _end_group(group: str, timeout: float, patience: float) -> None:
    """Kill the processes of a control group that do not end within ``patience``; remove it."""
    layout = cgroups.layout()
    began = time.monotonic()
    while pids := layout.processes(group):
        waited = time.monotonic() - began
        if waited > timeout:
            raise InternalError(f"Ending processes {sorted(pids)} of {group} failed: they go on")
        for pid in pids if waited >= patience else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            cgroups.thaw_process(pid)
        time.sleep(0.01)
    layout.remove(group)
