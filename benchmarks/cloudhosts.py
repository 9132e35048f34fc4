# SPDX-License-Identifier: Apache-2.0
"""The compute hosts of a quick start as its benchmark sees them: logs, processes, a fake one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from benchmarks.client import listener_pid

_TICK = os.sysconf("SC_CLK_TCK")
_LOG_SECONDS = 10.0
_FAKE = "benchmark-fake"
_CALL = re.compile(r'"(?:GET|POST|PUT|PATCH|DELETE) /')


class ComputeLog:
    """What a nova-compute writes from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def matches(self, pattern: re.Pattern[str], wanted: set[str]) -> dict[str, tuple[float, ...]]:
        """Numbers in the lines of these servers (the pattern's first group), once all are there.

        :raises AssertionError: some are missing after a while.
        """
        deadline = time.monotonic() + _LOG_SECONDS
        while True:
            with self._path.open(encoding="utf-8", errors="replace") as stream:
                stream.seek(self._at)
                found = {
                    match[1]: tuple(map(float, match.groups()[1:]))
                    for match in pattern.finditer(stream.read())
                    if match[1] in wanted
                }
            if wanted <= found.keys():
                return found
            missing = len(wanted - found.keys())
            assert time.monotonic() < deadline, f"{self._path} tells nothing of {missing} servers"
            time.sleep(0.1)


class FakeHost:
    """A nova-compute with nova's fake driver beside the cloud's own; a context manager."""

    name = _FAKE

    def __init__(self, state: Path) -> None:
        unit = json.loads((state / "units/nova-compute.json").read_text(encoding="utf-8"))
        self._argv, self._env = list(unit["argv"]), dict(unit["env"])
        self._home = Path(tempfile.mkdtemp(prefix="nova-fake-"))
        self._override = self._home / "fake.conf"
        (self._home / "instances").mkdir()
        self._override.write_text(
            f"[DEFAULT]\nhost = {_FAKE}\ncompute_driver = fake.FakeDriverWithoutFakeNodes\n"
            f"state_path = {self._home}\ninstances_path = {self._home}/instances\n",
            encoding="utf-8",
        )
        self.log = ComputeLog(self._home / "nova-compute.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._home / "nova-compute.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._argv, "--config-file", str(self._override)],
                env={**os.environ, **self._env}, stdout=log, stderr=log, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(60)
        shutil.rmtree(self._home)


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for each in pids:
        try:
            text = Path(f"/proc/{each}/task/{each}/children").read_text(encoding="ascii")
        except FileNotFoundError:
            continue
        pids += map(int, text.split())
    return pids


def _cpu(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            continue
        total += sum(map(int, fields.rpartition(")")[2].split()[11:15]))
    return total / _TICK


def _compute_pid(state: Path) -> int:
    wanted = str(state / "etc/nova-compute/nova-compute.conf").encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if wanted in words and any(word.endswith(b"nova-compute") for word in words):
            return int(path.parent.name)
    raise AssertionError(f"no nova-compute of {state} runs")


def _daemon_socket(state: Path) -> Path:
    return next((state / "lxd").rglob("unix.socket"))


def cpu_seconds(state: Path) -> dict[str, float]:
    """Processor time so far of nova-compute and of the LXD daemon, helpers included."""
    return {
        "nova-compute": _cpu(_tree(_compute_pid(state))),
        "LXD daemon": _cpu(_tree(listener_pid(_daemon_socket(state)))),
    }


def daemon_calls(state: Path, seconds: float) -> int | None:
    """How many requests the daemon reads in this time; None (after the time) without strace."""
    if shutil.which("strace") is None:
        time.sleep(seconds)
        return None
    argv = ["strace", "-f", "-s", "16", "-e", "trace=read,recvfrom,recvmsg", "-p",
            str(listener_pid(_daemon_socket(state)))]  # fmt: skip
    with tempfile.TemporaryFile() as told:
        with subprocess.Popen(argv, stderr=told, stdout=subprocess.DEVNULL) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
        told.seek(0)
        return len(_CALL.findall(told.read().decode("utf-8", "replace")))
