# SPDX-License-Identifier: Apache-2.0
"""Keeps services running on machines whose first process is not systemd.

``python3 -m cloud.supervisor STATE`` is the daemon: one thread, an epoll on a control socket and
on SIGCHLD.  It is the subreaper of all that its services start, so that 'stop everything' finds
every process.  The client half is :class:`cloud.controller.SupervisorController`.

Requests are one JSON object per connection: {"verb": "status" | "start" | "stop" | "quit",
"name": SERVICE}; the answer is one JSON object.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud.host import MARK
from cloud.layout import Layout
from cloud.services import Service, account, base_environment

PR_SET_CHILD_SUBREAPER = 36
QUICK_DEATH_SECONDS = 5.0
DEATHS_UNTIL_FAILED = 3
LONGEST_PAUSE = 30.0


@dataclass
class Child:
    """A service and its process; ``wanted`` tells a stop from a crash."""

    service: Service
    fingerprint: str
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    wanted: bool = True
    restarts: int = 0
    quick_deaths: int = 0
    next_start: float = 0.0
    kill_at: float = 0.0
    status: str = ""
    waiters: list[socket.socket] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        state = "running" if self.process else "stopped"
        if not self.process and self.wanted and self.quick_deaths >= DEATHS_UNTIL_FAILED:
            state = "failed"
        return {
            "state": state, "pid": self.process.pid if self.process else 0, "since": self.since,
            "restarts": self.restarts, "status": self.status, "fingerprint": self.fingerprint,
        }


class Supervisor:
    """The daemon's state and its loop."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._quitting: socket.socket | None = None
        self._done = False

    def serve(self) -> None:
        """Run until told to quit."""
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._quit(None))
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._selector.register(read_end, selectors.EVENT_READ, lambda: os.read(read_end, 4096))
        path = self._layout.supervisor_socket
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        while not self._done:
            for key, _ in self._selector.select(self._pause()):
                key.data()
            self._reap()
            self._act()
        path.unlink(missing_ok=True)

    def _pause(self) -> float | None:
        """Seconds until something is due; None when nothing is."""
        now = time.monotonic()
        due = [c.next_start for c in self._children.values() if not c.process and c.wanted]
        due += [c.kill_at for c in self._children.values() if c.process and c.kill_at]
        if self._quitting or self._stopping_all():
            due.append(now + 0.2)
        return max(0.0, min(due) - now) if due else None

    def _stopping_all(self) -> bool:
        return any(c.process and not c.wanted for c in self._children.values())

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(5.0)
        try:
            request = json.loads(connection.makefile("rb").readline())
            answer = self._handle(request, connection)
        except (OSError, ValueError, KeyError, TypeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            reply(connection, answer)

    def _handle(
        self, request: dict[str, Any], connection: socket.socket
    ) -> dict[str, Any] | None:
        verb = request["verb"]
        if verb == "status":
            return {"pid": os.getpid(),
                    "services": {name: c.describe() for name, c in self._children.items()}}
        if verb == "start":
            return self._start_named(request["name"])
        if verb == "stop":
            child = self._children.get(request["name"])
            if child is None or (child.process is None and not child.wanted):
                return {}
            self._stop(child)
            if child.process is None:
                return {}
            child.waiters.append(connection)
            return None
        if verb == "quit":
            self._quit(connection)
            return None
        raise ValueError(f"unknown verb {verb!r}")

    def _start_named(self, name: str) -> dict[str, Any]:
        text = (self._layout.units / f"{name}.json").read_text()
        child = self._children.get(name)
        if child is not None and child.process is not None:
            return {"error": f"{name} runs already"}
        child = Child(Service.from_json(text), json.loads(text)["fingerprint"])
        self._children[name] = child
        self._spawn(child)
        return {}

    def _spawn(self, child: Child) -> None:
        service = child.service
        child.since = time.time()
        child.kill_at = 0.0
        env = {**base_environment(service.env), MARK: str(self._layout.state)}
        try:
            uid, gid = account(service.user)
            with Path(service.log).open("ab") as log:
                for argv in service.before:
                    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env=env, check=True, timeout=60)
                child.process = subprocess.Popen(
                    service.command(), env=env, cwd=service.cwd,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    **({} if uid == 0 else
                       {"user": uid, "group": gid, "extra_groups": os.getgrouplist(
                           service.user, gid)}),
                )
        except (OSError, subprocess.SubprocessError) as error:
            child.status = f"it could not be started: {error}"
            self._died(child)

    def _died(self, child: Child) -> None:
        child.process = None
        child.kill_at = 0.0
        if not child.wanted:
            for waiter in child.waiters:
                reply(waiter, {})
            child.waiters.clear()
            return
        quick = time.time() - child.since < QUICK_DEATH_SECONDS
        child.quick_deaths = child.quick_deaths + 1 if quick else 1
        child.restarts += 1
        pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(child.quick_deaths, 8))
        child.next_start = time.monotonic() + pause

    def _reap(self) -> None:
        by_pid = {c.process.pid: c for c in self._children.values() if c.process}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if child := by_pid.get(pid):
                assert child.process is not None
                child.process.returncode = os.waitstatus_to_exitcode(status)
                child.status = describe_exit(child.process.returncode)
                if child.service.kill == "group":
                    signal_group(pid, signal.SIGKILL)
                self._died(child)

    def _act(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.process and child.kill_at and now >= child.kill_at:
                signal_group(child.process.pid, signal.SIGKILL)
                child.kill_at = now + 5.0
            if not child.process and child.wanted and now >= child.next_start:
                self._spawn(child)
        if self._quitting or self._done:
            self._finish()

    def _stop(self, child: Child) -> None:
        child.wanted = False
        if child.process is None:
            return
        child.kill_at = time.monotonic() + child.service.stop_seconds
        if child.service.kill == "group":
            signal_group(child.process.pid, signal.SIGTERM)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process.pid, signal.SIGTERM)

    def _quit(self, connection: socket.socket | None) -> None:
        """Stop what still runs, then every stray process, then end."""
        self._quitting = connection or socket.socket()
        for child in self._children.values():
            self._stop(child)

    def _finish(self) -> None:
        if any(c.process for c in self._children.values()):
            return
        killed = kill_descendants(os.getpid())
        if self._quitting:
            reply(self._quitting, {"strays": killed})
        self._done = True


def reply(connection: socket.socket, answer: dict[str, Any]) -> None:
    """Send ``answer`` and close; a client that has gone away misses it."""
    with contextlib.suppress(OSError), connection:
        connection.sendall(json.dumps(answer).encode() + b"\n")


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that ``pid`` leads, if it still has members."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def describe_exit(code: int) -> str:
    """An exit code as a person says it."""
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return f"ended with status {code}"


def descendants(root: int) -> list[int]:
    """Every process below ``root``, children before grandchildren."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [root]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_descendants(root: int, patience: float = 8.0) -> list[str]:
    """SIGTERM, then SIGKILL, all that ``root`` started; returns the names of what was left."""
    names = []
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        for pid in descendants(root):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if number == signal.SIGTERM:
                    names.append(Path(f"/proc/{pid}/comm").read_text().strip())
                os.kill(pid, number)
        while descendants(root) and time.monotonic() < deadline:
            time.sleep(0.05)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue
    return names


def main() -> None:
    Supervisor(Layout(Path(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
