# SPDX-License-Identifier: Apache-2.0
"""The daemon under measurement, its costs seen from outside."""

from __future__ import annotations

import errno
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.client import Connection
from nova_lxd.tests.functional.conftest import build_image, furnish
from nova_lxd.tests.functional.daemon import Daemon

POOL = "bench"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Result:
    """One line of the table: samples in ``unit``, their median is compared."""

    name: str
    unit: str
    samples: list[float]
    smaller_is_better: bool = True

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass
class Subject:
    """A furnished daemon with a btrfs pool, and what was measured on it."""

    daemon: Daemon
    results: list[Result] = field(default_factory=list)
    debian: bool = False

    def furnish(self, debian: bool) -> None:
        """Pool, bridge, profile and images."""
        furnish(self.daemon)
        self.daemon.lxc("storage", "create", POOL, "btrfs", "size=8GiB")
        self.daemon.lxc("profile", "device", "set", "default", "root", "pool", POOL)
        self.debian = debian
        if debian:
            split = build_image("debian", "metadata.tar.xz", "rootfs.squashfs")
            self.daemon.lxc("image", "import", *map(str, split), "--alias", "debian")

    def connect(self) -> Connection:
        """A fresh keep-alive connection."""
        return Connection(self.daemon.socket)

    def add(
        self, name: str, samples: list[float], unit: str = "ms", *, smaller: bool = True
    ) -> None:
        """Record a result."""
        self.results.append(Result(name, unit, samples, smaller))

    def times(self, name: str, count: int, step: Callable[[int], object]) -> None:
        """Record how long each of ``count`` calls of ``step`` takes, in ms."""
        samples = []
        for index in range(count):
            began = time.perf_counter()
            step(index)
            samples.append((time.perf_counter() - began) * 1000)
        self.add(name, samples)

    # Costs

    def processes(self) -> tuple[list[int], list[int]]:
        """(the daemon and its helpers, the containers' monitors) by pid."""
        own, monitors = [], []
        mine = os.readlink(f"/proc/{self.daemon.sandbox.pid}/ns/pid")
        for path in Path("/proc").iterdir():
            if not path.name.isdigit() or int(path.name) == self.daemon.sandbox.pid:
                continue
            try:
                if os.readlink(path / "ns/pid") != mine:
                    continue
                line = (path / "cmdline").read_bytes()
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ESRCH, errno.EACCES):
                    continue
                raise
            if line.startswith(b"[lxc monitor]"):
                monitors.append(int(path.name))
            elif not line.startswith(b"dnsmasq"):
                own.append(int(path.name))
        return own, monitors

    @staticmethod
    def pss(pids: list[int]) -> float:
        """Proportional set size of processes, in MB."""
        total = 0
        for pid in pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def cpu(self) -> float:
        """CPU seconds that the daemon and its helpers have used."""
        total = 0
        for pid in self.processes()[0]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
        return total / _TICK
