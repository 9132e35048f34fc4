# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the helper process: every call of liblxc, from any thread.

A request goes as one datagram with its own answer socket, so that threads need no lock and any
number of requests run at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import marshal
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import nova_lxd
from nova_lxd.lxd.errors import BadRequest, InternalError
from nova_lxd.lxd.host.liblxc import running
from nova_lxd.lxd.host.liblxc.running import Running

LOG = logging.getLogger(__name__)

CONFIG_FILE = "lxc.conf"
_MAX_ANSWER = 1 << 20
_SO_SNDBUFFORCE = 32
_BUFFER = 4 << 20
_START_TIMEOUT = 30.0
_REQUEST_TIMEOUT = 60.0
# To enter a container; a monitor that is stuck would keep who asks it for ever.
_ATTACH_TIMEOUT = 30
# For a daemon's start: a monitor answers within a millisecond, or it is in the middle of a start.
_ADOPT_TIMEOUT, _ADOPT_TIMEOUT_EACH = 5.0, 0.01
_KILL_STEP = 0.02
# How often a start that takes its time is looked at.
_LOOK_STEP = 2.0
_SAID_SHOWN = 400
# No site packages and no environment; UTF-8 whatever the locale, as arguments hold any bytes.
_FLAGS = ("-I", "-S", "-X", "utf8")
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from nova_lxd.lxd.host.liblxc.zygote import main; main(int(sys.argv[2]))"
)
# A line of liblxc's log: "lxc NAME 20260101000000.000 ERROR    start - ../src/x.c:fn:12 - text".
_LOG_LINE = re.compile(r"^.* \d+\.\d+ (?:ERROR|FATAL|CRIT|ALERT) +\S+ - \S+:\d+ - (.*)$", re.M)


class LiblxcError(InternalError):
    """liblxc refused; the message carries the reasons from its own log."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class StartTimeout(LiblxcError):
    """A start hung and was broken off."""


def log_errors(text: str) -> str:
    """The error messages in a piece of liblxc's log, in their order, on one line."""
    return "; ".join(dict.fromkeys(_LOG_LINE.findall(text)))


def write_config(path: Path, items: Iterable[tuple[str, str]]) -> None:
    """Write a liblxc configuration, readable by root only.

    :raises BadRequest: a key or value holds a line break.
    """
    lines = []
    for key, value in items:
        if "\n" in key or "\n" in value or "\0" in value:
            raise BadRequest(f"Writing the container's configuration failed: {key!r} spans lines")
        lines.append(f"{key} = {value}\n")
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.writelines(lines)
    temporary.replace(path)


def _launch() -> tuple[subprocess.Popen[bytes], socket.socket, str]:
    """Start a helper: its process, our end of the control socket, liblxc's version.

    :raises InternalError: it did not come up, with what it said.
    """
    top = str(Path(nova_lxd.__file__).parent.parent)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo, tempfile.TemporaryFile() as said, theirs:
        undo.callback(ours.close)
        for end in (ours, theirs):
            _enlarge(end)
        process = subprocess.Popen(
            [sys.executable, *_FLAGS, "-c", _BOOTSTRAP, top, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=(theirs.fileno(),),
            cwd="/",
            start_new_session=True,
        )
        undo.callback(process.wait)
        undo.callback(process.kill)
        theirs.close()
        ours.settimeout(_START_TIMEOUT)
        try:
            hello = ours.recv(_MAX_ANSWER)
        except (TimeoutError, ConnectionResetError):
            hello = b""
        if hello:
            kind, text = marshal.loads(hello)
        else:
            said.seek(0)
            kind, text = "error", said.read().decode("utf-8", "replace").strip()[-_SAID_SHOWN:]
        if kind != "ready":
            raise InternalError(f"Starting the liblxc helper failed: {text or 'it said nothing'}")
        ours.settimeout(None)
        undo.pop_all()
    return process, ours, text


def _enlarge(end: socket.socket) -> None:
    """Make room for a long environment in one datagram, as far as this process may."""
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    except PermissionError:  # we are in a container ourselves
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)


@contextlib.contextmanager
def _starting(worker: int, answers: socket.socket, timeout: float) -> Iterator[None]:
    """Watch over the worker of a start: when it fails, nothing of it runs any more.

    :raises StartTimeout: it did not answer in time, or never will.
    """
    with contextlib.ExitStack() as stack:
        try:
            pidfd = os.pidfd_open(worker)
            stack.callback(os.close, pidfd)
        except ProcessLookupError:
            yield  # it has answered and ended already
            return
        try:
            _await_start(worker, answers, timeout)
            yield
        except StartTimeout:
            # Whatever loses its parent becomes the worker's child, so that none can hide; with
            # the last of them liblxc gives up, and the worker ends.
            while not running.wait_end(pidfd, _KILL_STEP):
                for pid in running.children(worker):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            raise
        except LiblxcError:
            # liblxc moves its caller, too, into the container's groups.
            running.wait_end(pidfd, timeout)
            raise


def _await_start(worker: int, answers: socket.socket, timeout: float) -> None:
    """Wait for the worker's answer.

    :raises StartTimeout: none came in time, or the container's init or its monitor died before
        it was ready: in liblxc 5.0.2 and 6.0 each then waits for the other for ever, as it holds
        both ends of the socket on which the other would tell it.
    """
    deadline = time.monotonic() + timeout
    seen: set[int] = set()
    while not running.wait_end(answers.fileno(), _LOOK_STEP):
        if time.monotonic() > deadline:
            reason = f"it did not come up within {timeout:g} s"
            raise StartTimeout(reason, reason)
        # Who is not stuck takes note of a child's end at once.
        parents = [worker, *running.children(worker)]
        ended = {pid for parent in parents for pid in running.zombies(parent)}
        if ended & seen:
            reason = "its init or its monitor ended before it was ready"
            raise StartTimeout(reason, reason)
        seen = ended


def _errors_since(log: Path, offset: int) -> str:
    """What liblxc has complained about beyond an offset of its log."""
    if not log.exists():
        return ""
    with log.open("rb") as stream:
        stream.seek(offset)
        return log_errors(stream.read().decode("utf-8", "replace"))


class Exec:
    """A program running inside a container.

    ``pid`` is its host pid: signal it with :meth:`kill` while it has not ended.
    """

    def __init__(self, pid: int, pidfd: int, answers: socket.socket) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._answers = answers
        self._status: int | None = None
        self._lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Block until it ends: its exit code, 128 + the signal's number when killed by one.

        :raises TimeoutError: it runs on after ``timeout`` seconds.
        :raises InternalError: the helper died; the program may run on.
        """
        with self._lock:
            if self._status is None:
                self._answers.settimeout(timeout)
                data = self._answers.recv(_MAX_ANSWER)
                if not data:
                    raise InternalError(
                        f"Waiting for process {self.pid} failed: its helper process has died"
                    )
                code = os.waitstatus_to_exitcode(marshal.loads(data)[1])
                self._status = 128 - code if code < 0 else code
                self.close()
        return self._status

    def fileno(self) -> int:
        """A descriptor that becomes readable when :meth:`wait` would not block."""
        return self._answers.fileno()

    def kill(self, number: int) -> None:
        """Send a signal; nothing happens when the program has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                running.send_signal(self._pidfd, number)

    def close(self) -> None:
        """Let go of it; the program runs on."""
        self._answers.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class Zygote:
    """The helper process; started at the first request and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.liblxc_version = ""

    def open(self) -> None:
        """Start the helper now.

        :raises InternalError: liblxc is missing or of an unknown version.
        """
        self._connection()

    def close(self) -> None:
        """End the helper; containers and running programs go on."""
        with self._lock:
            self._drop()

    @property
    def pid(self) -> int | None:
        """The helper's pid, None when none runs."""
        return self._process.pid if self._process else None

    def _drop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _connection(self, broken: socket.socket | None = None) -> socket.socket:
        with self._lock:
            if self._control is None or self._control is broken:
                self._drop()
                self._process, self._control, self.liblxc_version = _launch()
            return self._control

    def _send(
        self, request: tuple[Any, ...], fds: Sequence[int], patience: int = 0
    ) -> socket.socket:
        """Send a request: the socket on which its worker answers.

        :param patience: seconds after which the worker ends itself, 0 for never.
        """
        data = marshal.dumps((patience, *request))
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                control = self._connection()
                try:
                    socket.send_fds(control, [data], [theirs.fileno(), *fds])
                except (BrokenPipeError, ConnectionResetError, OSError) as exc:
                    if exc.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EBADF):
                        raise
                    # The helper died before it took the request: nothing was done yet.
                    LOG.warning("the liblxc helper has died; starting another")
                    control = self._connection(broken=control)
                    socket.send_fds(control, [data], [theirs.fileno(), *fds])
        except BaseException:
            answers.close()
            raise
        return answers

    def _receive(self, answers: socket.socket, what: str) -> tuple[list[Any], list[int]]:
        """The worker's first answer and its descriptors.

        :raises LiblxcError: liblxc refused.
        :raises OSError: a system call failed.
        """
        data, fds, _flags, _address = socket.recv_fds(answers, _MAX_ANSWER, 4)
        if not data:
            raise InternalError(
                f"{what} failed: the helper process has ended before it answered; it was killed, "
                "or the container's monitor is stuck"
            )
        kind, *values = marshal.loads(data)
        if kind == "ok":
            return values, fds
        if kind == "os":
            raise OSError(values[0], values[1], values[2])
        reason = log_errors(values[1]) or values[0]
        raise LiblxcError(f"{what} failed: {reason}", reason)

    def _request(
        self,
        what: str,
        *request: Any,
        fds: Sequence[int] = (),
        timeout: float | None = None,
    ) -> tuple[list[Any], list[int]]:
        timeout = timeout or _REQUEST_TIMEOUT
        with self._send(request, fds, patience=ceil(timeout)) as answers:
            answers.settimeout(timeout)
            try:
                return self._receive(answers, what)
            except TimeoutError as exc:
                raise InternalError(
                    f"{what} failed: liblxc has not answered for {timeout:g} s; the "
                    "container's monitor may be stuck"
                ) from exc

    # -- life ---------------------------------------------------------------------------------

    def start(
        self,
        name: str,
        lxcpath: str | Path,
        items: Iterable[tuple[str, str]],
        *,
        log: Path,
        level: str = "ERROR",
        env: Mapping[str, str] | None = None,
        timeout: float = 120.0,
    ) -> Running:
        """Start a container; returns when its init runs.

        The configuration is kept as ``LXCPATH/NAME/lxc.conf``.

        :param items: liblxc configuration, in order; keys may repeat.
        :param log: liblxc's log file of this container, appended to.
        :param env: environment of liblxc and so of its hooks.
        :param timeout: seconds until a start that hangs is broken off.
        :raises LiblxcError: with what liblxc logged; no process is left of the container.
        """
        config = self.config_path(name, lxcpath)
        config.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        write_config(config, items)
        offset = log.stat().st_size if log.exists() else 0
        what = f"Starting container '{name}'"
        request = ("start", name, str(lxcpath), str(config), str(log), level, dict(env or {}))
        try:
            with self._send(request, ()) as answers:
                (worker,), _ = self._receive(answers, what)
                with _starting(worker, answers, timeout):
                    (init, monitor), pidfds = self._receive(answers, what)
        except LiblxcError as exc:
            logged = _errors_since(log, offset)
            if isinstance(exc, StartTimeout) and logged:
                reason = f"{exc.reason}: {logged}"
            else:
                reason = logged or exc.reason
            raise LiblxcError(f"{what} failed: {reason}; see {log}", reason) from exc
        return Running(init, monitor, *pidfds)

    def check_config(self, text: str) -> None:
        """Let liblxc read lines of configuration; nothing is started.

        :raises LiblxcError: it refuses one; ``reason`` says which.
        """
        self._request("Reading the configuration", "check", text)

    @staticmethod
    def config_path(name: str, lxcpath: str | Path) -> Path:
        """Where :meth:`start` keeps a container's configuration."""
        return Path(lxcpath) / name / CONFIG_FILE

    def find_running(self, lxcpath: str | Path, names: Sequence[str]) -> dict[str, Running]:
        """Those of the named containers that run, for adoption by a new daemon.

        ``lxcpath`` must be the same text as at their start.  A container whose monitor was killed
        is not found: see :func:`.running.kill_leftovers`.  A monitor that does not answer is
        ended when it has no init that runs: its start was cut off in the middle.
        """
        try:
            pids = self._init_pids(lxcpath, list(names))
        except InternalError:
            LOG.warning("Some monitor below %s does not answer; asking one by one", lxcpath)
            pids = [self._init_pid_or_end(lxcpath, name) for name in names]
        found = {}
        for name, pid in zip(names, pids, strict=True):
            if pid > 0:
                with contextlib.suppress(ProcessLookupError):
                    found[name] = Running.of_init(pid)
        return found

    def _init_pids(self, lxcpath: str | Path, names: list[str]) -> list[int]:
        values, _ = self._request(
            "Looking for running containers",
            "init_pids",
            str(lxcpath),
            names,
            timeout=_ADOPT_TIMEOUT + _ADOPT_TIMEOUT_EACH * len(names),
        )
        return list(values[0])

    def _init_pid_or_end(self, lxcpath: str | Path, name: str) -> int:
        """The pid of a container's init, -1 when there is none."""
        try:
            return self._init_pids(lxcpath, [name])[0]
        except InternalError:
            for monitor in running.monitors(str(lxcpath), name):
                init = running.first_child(monitor)
                if init > 0 and running.runs_its_own(init):
                    LOG.warning("Container %s: its monitor %d does not answer", name, monitor)
                    return init
                LOG.warning("Container %s: ending its stuck monitor %d", name, monitor)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(monitor, signal.SIGKILL)
            return -1

    # -- inside -------------------------------------------------------------------------------

    def exec(
        self,
        name: str,
        lxcpath: str | Path,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        env: Mapping[str, str],
        uid: int = 0,
        gid: int = 0,
        cwd: str = "/",
        leaf: tuple[Path, int, int] | None = None,
    ) -> Exec:
        """Run a program in a running container; the descriptors stay the caller's to close.

        :param stdin: a terminal becomes the program's controlling one.
        :param env: its whole environment, but for ``container=lxc``; PATH finds the program.
        :param leaf: the control group of what is executed (:meth:`..cgroups.Layout.leaf`), and
            the uid and gid that own it.
        :raises LiblxcError: the container could not be entered (it does not run, say).
        :raises InternalError: its monitor does not answer.

        A program that is missing ends with 127, one that cannot be executed with 126.
        """
        request = (
            "exec",
            name,
            str(lxcpath),
            list(argv),
            dict(env),
            (uid, gid),
            cwd,
            (str(leaf[0]), *leaf[1:]) if leaf else None,
        )
        with contextlib.ExitStack() as undo:
            fds = (stdin, stdout, stderr)
            answers = undo.enter_context(self._send(request, fds, patience=_ATTACH_TIMEOUT))
            values, pidfds = self._receive(answers, f"Executing '{argv[0]}' in container '{name}'")
            process = Exec(values[0], pidfds[0], answers)
            undo.pop_all()
        return process

    def console(self, name: str, lxcpath: str | Path) -> tuple[int, int]:
        """(pty master of the container's console, claim): close both to let the next one in.

        :raises LiblxcError: the container does not run or its console is taken.
        """
        _, fds = self._request(
            f"Opening the console of container '{name}'", "console", name, str(lxcpath)
        )
        return fds[0], fds[1]

    def console_log(self, name: str, lxcpath: str | Path) -> bytes:
        """What the console's ring buffer holds.

        :raises OSError: the container has no ring buffer (EFAULT) or does not run.
        """
        try:
            values, _ = self._request(
                f"Reading the console log of container '{name}'",
                "console_log",
                name,
                str(lxcpath),
                False,
            )
        except OSError as exc:
            if exc.errno == errno.ENODATA:
                return b""
            raise
        return bytes(values[0])

    def clear_console_log(self, name: str, lxcpath: str | Path) -> None:
        """Empty the console's ring buffer.  Errors as for :meth:`console_log`."""
        self._request(
            f"Clearing the console log of container '{name}'",
            "console_log",
            name,
            str(lxcpath),
            True,
        )

    def set_cgroup_item(self, name: str, lxcpath: str | Path, key: str, value: str) -> None:
        """Set a control group item that only the monitor can (``devices.allow`` on cgroup v2).

        :raises LiblxcError: refused.
        """
        what = f"Setting {key} of container '{name}'"
        self._request(what, "set_cgroup_item", name, str(lxcpath), key, value)

    def mount(
        self,
        pid: int,
        mount_fd: int,
        target: str,
        *,
        directory: bool,
        root: tuple[int, int] = (0, 0),
        mode: int = 0o755,
    ) -> None:
        """Put a detached mount (:func:`..mounts.clone`) at ``target`` in the container of ``pid``.

        :param directory: make a directory when nothing is at the target, else an empty file.
        :param root: host uid and gid of the container's root, who owns what is made.
        :raises OSError: with the path inside.
        """
        kind = "dir" if directory else "file"
        what = f"Mounting {target}"
        self._request(what, "mount", pid, target, kind, root, mode, fds=(mount_fd,))

    def unmount(
        self, pid: int, target: str, *, remove: bool = False, root: tuple[int, int] = (0, 0)
    ) -> None:
        """Detach what is mounted at ``target`` inside; with ``remove`` delete the file there too.

        :raises OSError: EINVAL when nothing is mounted there.
        """
        self._request(f"Unmounting {target}", "unmount", pid, target, remove, root)
