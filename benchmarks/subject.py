# SPDX-License-Identifier: Apache-2.0
"""The daemon under measurement, known by its unix socket alone, and its costs as /proc tells."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.client import BenchmarkError, Connection, WebSocket, listener_pid, multipart

POOL, DIR_POOL, PROFILE, BRIDGE = "bench", "bench-dir", "bench", "benchbr0"
_POOL_SIZE = "10GiB"
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


@dataclass(frozen=True)
class Image:
    """A split image on this host."""

    metadata: Path
    rootfs: Path


@dataclass
class Subject:
    """One daemon, what was furnished in it, and what was measured on it."""

    socket: Path
    images: dict[str, Image]
    results: list[Result] = field(default_factory=list)

    # What a measurement stands on

    def furnish(self) -> None:
        """Make a btrfs and a dir pool, a bridge, a profile and the images."""
        with self.connect() as api:
            api.json(
                "POST",
                "/1.0/storage-pools",
                {"name": POOL, "driver": "btrfs", "config": {"size": _POOL_SIZE}},
            )
            api.json("POST", "/1.0/storage-pools", {"name": DIR_POOL, "driver": "dir"})
            network = {"ipv4.address": "10.191.0.1/16", "ipv6.address": "none"}
            api.json("POST", "/1.0/networks", {"name": BRIDGE, "config": network})
            devices = {
                "root": {"type": "disk", "path": "/", "pool": POOL},
                "eth0": {"type": "nic", "network": BRIDGE, "name": "eth0"},
            }
            api.json("POST", "/1.0/profiles", {"name": PROFILE, "devices": devices})
            for alias in self.images:
                self.import_image(api, alias)

    def clear(self) -> None:
        """Remove what :meth:`furnish` made."""
        with self.connect() as api:
            for alias in self.images:
                target = api.get(f"/1.0/images/aliases/{alias}")["target"]
                api.operate("DELETE", f"/1.0/images/{target}")
            api.json("DELETE", f"/1.0/profiles/{PROFILE}")
            api.json("DELETE", f"/1.0/networks/{BRIDGE}")
            for pool in (POOL, DIR_POOL):
                api.json("DELETE", f"/1.0/storage-pools/{pool}")

    def import_image(self, api: Connection, alias: str) -> str:
        """Upload an image under its alias; its fingerprint."""
        image = self.images[alias]
        body, header = multipart({"metadata": image.metadata, "rootfs": image.rootfs})
        done = api.finish(api.answer("POST", "/1.0/images", body, header))
        fingerprint = str(done["metadata"]["fingerprint"])
        api.json("POST", "/1.0/images/aliases", {"name": alias, "target": fingerprint})
        return fingerprint

    def connect(self) -> Connection:
        """A fresh keep-alive connection."""
        connection = Connection(self.socket)
        # LXD looks at the first byte of a connection before it accepts the next one.
        connection.request("GET", "/")
        return connection

    def websocket(self, target: str) -> WebSocket:
        """A fresh WebSocket."""
        return WebSocket(self.socket, target)

    # Results

    def add(
        self, name: str, samples: list[float], unit: str = "ms", *, smaller: bool = True
    ) -> None:
        """Record samples; a further call with the same name adds to them."""
        for result in self.results:
            if result.name == name:
                result.samples += samples
                return
        self.results.append(Result(name, unit, samples, smaller))

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Record how long the block takes, in ms."""
        began = time.perf_counter()
        yield
        self.add(name, [(time.perf_counter() - began) * 1000])

    def times(self, name: str, count: int, step: Callable[[int], Any]) -> None:
        """Record how long each of ``count`` calls of ``step`` takes."""
        for index in range(count):
            with self.timing(name):
                step(index)

    # Costs

    def processes(self) -> tuple[list[int], list[int]]:
        """(the daemon and its helpers, the containers' monitors) by pid."""
        daemon = listener_pid(self.socket)
        if daemon <= 0:
            raise BenchmarkError(f"{self.socket}: the daemon's process cannot be seen from here")
        mark = f"[lxc monitor] {self.socket.parent}/".encode()
        parents: dict[int, int] = {}
        monitors = []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            try:
                line = (path / "cmdline").read_bytes()
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if line.startswith(mark):
                monitors.append(int(path.name))
            elif not line.startswith(b"dnsmasq"):
                parents[int(path.name)] = parent
        own = [daemon]
        for pid in own:
            own += [child for child, parent in parents.items() if parent == pid]
        return own, monitors

    @staticmethod
    def pss(pids: list[int]) -> float:
        """Proportional set size of processes, in MB."""
        total = 0
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):  # a worker that is done
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total / 1024

    def cpu(self) -> float:
        """CPU seconds that the daemon, its helpers and the children it reaped have used."""
        total = 0
        for pid in self.processes()[0]:
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))
        return total / _TICK

    def idle_cpu(self, seconds: float) -> float:
        """CPU use in percent of one core over some seconds."""
        before = self.cpu()
        time.sleep(seconds)
        return (self.cpu() - before) / seconds * 100
