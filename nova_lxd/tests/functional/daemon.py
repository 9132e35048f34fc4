# SPDX-License-Identifier: Apache-2.0
"""A daemon of its own for a test: the bundled one, or real LXD as the oracle."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import yaml

from nova_lxd.tests.functional.sandbox import Sandbox, clean_environment, only_child, wait_for

BACKENDS = ("bundled", "lxd")
REPOSITORY = Path(__file__).resolve().parents[3]
START_TIMEOUT = 60.0
HOME_PREFIX = "nlxd-"


class LxcError(AssertionError):
    """`lxc` failed where the test expects it to work."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("lxd", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; ``body`` is its JSON when it is JSON, else bytes."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def metadata(self) -> Any:
        """The payload of LXD's envelope; AssertionError with LXD's own words on an error."""
        assert isinstance(self.body, dict), f"no JSON envelope but {self.body!r}"
        assert self.body.get("type") != "error", self.body
        return self.body["metadata"]

    @property
    def error(self) -> str:
        """LXD's sentence in an error envelope."""
        assert isinstance(self.body, dict), f"no JSON envelope but {self.body!r}"
        assert self.body.get("type") == "error", self.body
        return str(self.body["error"])


def _backend_argv(backend: str) -> list[str]:
    if backend == "lxd":
        program = shutil.which("lxd")
        assert program, "real LXD is not installed: apt-get install lxd"
        return [program, "--group", "root"]
    return [sys.executable, "-m", "nova_lxd.lxd.cli", "daemon", "--group", "root"]


def sweep() -> None:
    """Remove what runs that were killed left: their namespaces died with them."""
    for home in Path("/tmp").glob(f"{HOME_PREFIX}*"):
        try:
            owner = int((home / "owner").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            continue
        if not Path(f"/proc/{owner}").exists():
            sandbox = (home / "sandbox").read_text(encoding="ascii")
            try:
                Sandbox(sandbox).close()
                shutil.rmtree(home)
            except OSError as exc:
                # Another run may sweep the same, or its tasks are still dying: not ours to fail.
                warnings.warn(f"{home} of a killed run could not be removed: {exc}", stacklevel=2)


class Daemon:
    """One daemon in one sandbox.  A context manager: entering starts it, leaving removes all."""

    def __init__(self, backend: str, name: str = "d") -> None:
        self.backend = backend
        self.home = Path(tempfile.mkdtemp(prefix=HOME_PREFIX, dir="/tmp"))
        self.home.chmod(0o755)
        self.lxd_dir = self.home / "lxd"
        self.lxd_dir.mkdir(mode=0o711)
        self.config = self.home / "client"
        self.config.mkdir(mode=0o700)
        self.log = self.home / "daemon.log"
        self.sandbox = Sandbox(f"{name}-{self.home.name.removeprefix(HOME_PREFIX)}")
        (self.home / "sandbox").write_text(self.sandbox.name, encoding="ascii")
        (self.home / "owner").write_text(str(os.getpid()), encoding="ascii")
        self._process: subprocess.Popen[bytes] | None = None

    # Life cycle

    def __enter__(self) -> Daemon:
        try:
            self.sandbox.__enter__()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._remove()

    @property
    def socket(self) -> Path:
        """The daemon's unix socket."""
        return self.lxd_dir / "unix.socket"

    @property
    def environment(self) -> dict[str, str]:
        """What a client or the daemon needs to find this daemon and no other."""
        return clean_environment(
            {
                "LXD_DIR": str(self.lxd_dir),
                "LXD_CONF": str(self.config),
                "HOME": str(self.home),
                "PYTHONPATH": str(REPOSITORY),
                "PYTHONUNBUFFERED": "1",
            }
        )

    @property
    def pid(self) -> int:
        """The daemon's pid as seen from here."""
        assert self._process is not None, "the daemon does not run"
        return int(wait_for(lambda: only_child(self._process.pid), "the daemon's pid"))  # type: ignore[union-attr]

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        assert self._process is None, "the daemon runs already"
        with self.log.open("ab") as log:
            self._process = self.sandbox.popen(
                _backend_argv(self.backend),
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the daemon did not come up:\n{self.log_tail()}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return self.api("GET", "/internal/ready").status == 200
        except (ConnectionError, FileNotFoundError, http.client.HTTPException):
            return False

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon by a signal, containers left as the signal says; its exit code."""
        assert self._process is not None, "the daemon does not run"
        os.kill(self.pid, with_signal)
        code = self._process.wait(timeout=120)
        self._process = None
        return code

    def restart(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon as :meth:`stop` does, then start it anew on the same directory."""
        self.stop(with_signal)
        self.start()

    def _remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                os.kill(self.pid, signal.SIGKILL)
                self._process.wait(timeout=30)
        self.sandbox.close()
        shutil.rmtree(self.home)

    def log_tail(self, count: int = 6000) -> str:
        """The end of what the daemon printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-count:]

    # Clients

    def lxc(
        self,
        *args: str,
        check: bool = True,
        input: str | None = None,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Debian's ``lxc``; LxcError with its stderr when it fails and ``check`` is set."""
        done = self.lxc_bytes(
            *args, input=None if input is None else input.encode(), timeout=timeout, env=env
        )
        text = subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )
        if check and text.returncode != 0:
            raise LxcError(f"lxc {' '.join(args)} exited {text.returncode}: {text.stderr}")
        return text

    def lxc_bytes(
        self,
        *args: str,
        input: bytes | IO[bytes] | None = None,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``lxc`` with raw bytes in and out, whatever its exit code."""
        feed: dict[str, Any] = {"stdin": subprocess.DEVNULL}
        if isinstance(input, bytes):
            feed = {"input": input}
        elif input is not None:
            feed = {"stdin": input}
        return subprocess.run(
            ["lxc", *args],
            **feed,
            capture_output=True,
            timeout=timeout,
            env=self.environment | dict(env or {}),
            check=False,
        )

    def refused(self, *args: str, input: str | None = None) -> str:
        """stderr of an ``lxc`` call that must fail."""
        done = self.lxc(*args, input=input, check=False)
        assert done.returncode != 0, f"lxc {' '.join(args)} was accepted: {done.stdout}"
        return done.stderr.strip()

    def admin_argv(self, *verb: str) -> list[str]:
        """The command line of an administrative verb: ours, or real LXD's."""
        own = [sys.executable, "-m", "nova_lxd.lxd.cli"]
        return [*(["lxd"] if self.backend == "lxd" else own), *verb]

    def admin(self, *verb: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run an administrative verb such as ``shutdown`` beside the daemon."""
        return self.inside(*self.admin_argv(*verb), check=check)

    def inside(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program on the daemon's host side: its network, mounts and processes."""
        return self.sandbox.run(argv, check=check, env=self.environment)

    def api(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
        socket: Path | None = None,
    ) -> Answer:
        """One raw request; ``body`` is sent as it is if bytes, else as JSON.

        ``socket`` is another way to the daemon's own.
        """
        connection = _UnixConnection(socket or self.socket, timeout)
        try:
            payload = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, payload, dict(headers or {}))
            response = connection.getresponse()
            raw = response.read()
            fields = {name.lower(): value for name, value in response.getheaders()}
            parsed: Any = raw
            if raw and "json" in fields.get("content-type", ""):
                parsed = json.loads(raw)
            return Answer(response.status, fields, parsed)
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The metadata of a GET that must succeed."""
        return self.api("GET", path).metadata

    def operate(self, method: str, path: str, body: Any = None, *, timeout: float = 60) -> Any:
        """Start a background operation, wait for it and give it back; it must succeed."""
        answer = self.api(method, path, body)
        assert answer.status == 202, answer
        done = self.get(f"{answer.body['operation']}/wait?timeout={int(timeout)}")
        assert done["status"] == "Success", done
        return done

    # Shorthand that tests share

    def instance(self, name: str, project: str = "default") -> Any:
        """GET one instance."""
        return self.get(f"/1.0/instances/{quote(name)}?project={quote(project)}")

    def instance_snapshots(self, name: str) -> list[Any]:
        """The snapshots of an instance, oldest first."""
        found = self.get(f"/1.0/instances/{quote(name)}/snapshots?recursion=1")
        return sorted(found, key=lambda each: str(each["created_at"]))

    def status(self, name: str) -> str:
        """An instance's status, as LXD words it ("Running", "Stopped", "Frozen")."""
        return str(self.instance(name)["status"])

    def wait_status(self, name: str, status: str, timeout: float = 30) -> None:
        """Wait until the instance has the status."""
        wait_for(lambda: self.status(name) == status, f"{name} {status}", timeout=timeout)

    def exec(self, name: str, *argv: str, check: bool = True) -> str:
        """stdout of a command in a guest, without its last newline."""
        done = self.lxc("exec", name, "--", *argv, check=check)
        return done.stdout.rstrip("\n")

    def memory_limit(self, name: str) -> int:
        """The memory limit that binds a guest's init, in bytes (2**62 and more: none)."""
        pid = self.get(f"/1.0/instances/{name}/state")["pid"]
        for line in self.inside("cat", f"/proc/{pid}/cgroup").stdout.splitlines():
            _number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                base, knob = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
            elif not controllers:
                base, knob = Path("/sys/fs/cgroup"), "memory.max"
            else:
                continue
            group = base / path.lstrip("/")
            limits = [1 << 62]
            # systemd puts itself below the limited group, and any group above binds as well.
            while group != base.parent:
                text = self.inside("cat", str(group / knob), check=False).stdout.strip()
                if text and text != "max":
                    limits.append(int(text))
                group = group.parent
            if len(limits) > 1 or not controllers:
                return min(limits)
        raise AssertionError(f"no memory control group of {name}")

    def ipv4(self, name: str, nic: str = "eth0", timeout: float = 20) -> str:
        """The global IPv4 address of a guest's nic, as the state reports it; waits for it."""

        def look() -> str | None:
            network = self.get(f"/1.0/instances/{name}/state")["network"] or {}
            for address in network.get(nic, {}).get("addresses", []):
                if address["family"] == "inet" and address["scope"] == "global":
                    return str(address["address"])
            return None

        return str(wait_for(look, f"an IPv4 address of {name}", timeout=timeout))

    def yaml(self, *args: str) -> Any:
        """What an ``lxc`` command that prints YAML printed."""
        return yaml.safe_load(self.lxc(*args).stdout)
