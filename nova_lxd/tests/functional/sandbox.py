# SPDX-License-Identifier: Apache-2.0
"""Namespaces and cgroups of its own for one daemon, so that whatever it leaves can be removed.

Everything a daemon starts (containers, their monitors, dnsmasq) lives in one PID, mount, network,
UTS and cgroup namespace.  Killing the namespace's first process ends all of it; mounts, links and
firewall rules go with the namespaces, and the cgroups below ours are removed by name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

CGROUPS = Path("/sys/fs/cgroup")
HOLDER = Path(__file__).with_name("holder.py")
# Clients that pin a certificate must not be handed another trust store.
_TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


class SandboxError(RuntimeError):
    """The sandbox could not be made or did not go away."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without trust stores, in the C locale, plus ``extra``."""
    env = {key: value for key, value in os.environ.items() if key not in _TRUST_VARIABLES}
    env |= {"LC_ALL": "C.UTF-8", "TERM": "xterm"}
    return env | dict(extra or {})


def wait_for(
    check: Callable[[], Any], what: str, *, timeout: float = 20.0, interval: float = 0.05
) -> Any:
    """The first true value of ``check()``; AssertionError naming ``what`` after ``timeout`` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s: {value!r}"
        time.sleep(interval)


def only_child(pid: int) -> int:
    """The pid of the one child of ``pid``; 0 while there is none."""
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(words[0]) if words else 0


class Sandbox:
    """Use as a context manager; ``popen`` and ``run`` start programs inside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._cgroup = f"nova-lxd-test-{name}"
        self._holder: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.pid = 0

    def __enter__(self) -> Sandbox:
        try:
            self._make_cgroups()
            self._start_holder()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def cgroups(self) -> list[Path]:
        """Our directory in each cgroup hierarchy of this host (one on a v2-only host)."""
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS / self._cgroup]
        return [path / self._cgroup for path in sorted(CGROUPS.iterdir()) if path.is_dir()]

    def _make_cgroups(self) -> None:
        for path in self.cgroups:
            path.mkdir()
            for knob in ("cpuset.cpus", "cpuset.mems"):
                if (path / knob).exists() and (path.parent / knob).exists():
                    (path / knob).write_text((path.parent / knob).read_text())

    def _joined(self, argv: Sequence[str]) -> list[str]:
        """``argv`` started by a shell that first moves itself into our cgroups."""
        moves = "; ".join(f"echo $$ > {path}/cgroup.procs" for path in self.cgroups)
        return ["sh", "-ec", f'{moves}; exec "$@"', "sh", *argv]

    def _start_holder(self) -> None:
        argv = ["unshare", "--net", "--mount", "--uts", "--cgroup", "--ipc", "--pid", "--fork"]
        argv += ["--kill-child", "--propagation", "private", "--", sys.executable, str(HOLDER)]
        self._holder = subprocess.Popen(
            self._joined(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        if line != b"ready\n":
            self._stderr.seek(0)
            raise SandboxError(f"the namespace holder failed: {self._stderr.read()!r}")
        self.pid = only_child(self._holder.pid)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """``argv`` as it must be called to run inside."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", "-p", "-C", "--"]
        return self._joined([*enter, *argv])

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        """Start a program inside; it is the only child of the process that is returned."""
        kwargs.setdefault("env", clean_environment())
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(self.argv(argv), **kwargs)

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        stdin: IO[Any] | int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; AssertionError with its output if it fails."""
        done = subprocess.run(
            self.argv(argv),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=clean_environment(env),
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{argv} exited {done.returncode}: {done.stderr}"
        return done

    def processes(self) -> list[str]:
        """Command lines of everything that runs inside but the holder itself."""
        found = []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit() or int(path.name) == self.pid:
                continue
            try:
                same = os.readlink(path / "ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid")
                line = (path / "cmdline").read_bytes()
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ESRCH, errno.EACCES):
                    raise
                continue
            if same and line:
                found.append(line.replace(b"\0", b" ").decode("utf-8", "replace").strip())
        return found

    def close(self) -> None:
        """End every process inside and remove the cgroups."""
        if self._holder is not None:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
            else:
                self._holder.kill()
            self._holder.wait(timeout=30)
            for pipe in (self._holder.stdin, self._holder.stdout):
                assert pipe is not None
                pipe.close()
            self._holder = None
        self._stderr.close()
        for path in self.cgroups:
            self._thaw(path)
        for path in self.cgroups:
            self._remove_cgroup(path)

    @staticmethod
    def _thaw(top: Path) -> None:
        """Let frozen tasks die: on cgroup v1 not even SIGKILL reaches them."""
        for directory, _names, files in os.walk(top):
            for knob, thawed in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if knob in files:
                    (Path(directory) / knob).write_text(thawed, encoding="ascii")

    @staticmethod
    def _remove_cgroup(top: Path) -> None:
        """Remove a cgroup and those below it; they stay busy until the last task is reaped.

        A frozen task (cgroup v1) would not even die of SIGKILL: all are thawed first.
        """
        for state in top.rglob("freezer.state"):
            with contextlib.suppress(FileNotFoundError, OSError):
                state.write_text("THAWED", encoding="ascii")
        deadline = time.monotonic() + 20
        for directory, _names, _files in os.walk(top, topdown=False):
            while True:
                try:
                    Path(directory).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError as exc:
                    if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
