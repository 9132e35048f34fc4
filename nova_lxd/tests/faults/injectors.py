# SPDX-License-Identifier: Apache-2.0
"""The faults.  Each is done in the middle of a round; what it returns undoes it at the end."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.fuzz.proxy import Proxy

Undo = Callable[[], None]
Injector = Callable[["Subject", random.Random], Undo]
POOL = "default"
_FILLER = "filler-of-the-fault-run"


class Subject(Daemon):
    """The daemon with a second way to its socket, which can be cut."""

    way: Proxy


def _nothing() -> None:
    """A fault that needs no undo: the daemon must mend itself."""


def processes(daemon: Daemon) -> Iterator[tuple[int, str]]:
    """(pid, command line) of everything in the daemon's namespaces."""
    mine = os.readlink(f"/proc/{daemon.sandbox.pid}/ns/pid")
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            if os.readlink(path / "ns/pid") != mine:
                continue
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours
            continue
        yield int(path.name), line.strip()


def _kill_one(daemon: Daemon, chance: random.Random, word: str) -> str:
    """SIGKILL one process whose command line holds ``word``; its command line, or ""."""
    found = sorted((line, pid) for pid, line in processes(daemon) if word in line)
    if not found:
        return ""
    line, pid = chance.choice(found)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return line


def daemon(subject: Subject, _chance: random.Random) -> Undo:
    """The daemon itself."""
    subject.stop(signal.SIGKILL)
    return _nothing


def zygote(subject: Subject, chance: random.Random) -> Undo:
    """The helper that calls liblxc, or one of its workers."""
    _kill_one(subject, chance, "liblxc.zygote")
    return _nothing


def monitor(subject: Subject, chance: random.Random) -> Undo:
    """One container's monitor."""
    _kill_one(subject, chance, "[lxc monitor]")
    return _nothing


def dnsmasq(subject: Subject, chance: random.Random) -> Undo:
    """The bridge's DHCP and DNS server."""
    _kill_one(subject, chance, "dnsmasq ")
    return _nothing


def pool_full(subject: Subject, _chance: random.Random) -> Undo:
    """No space is left on the pool."""
    filler = str(subject.lxd_dir / "storage-pools" / POOL / _FILLER)
    subject.inside("dd", "if=/dev/zero", f"of={filler}", "bs=1M", check=False)

    def undo() -> None:
        subject.inside("rm", "-f", filler)

    return undo


def no_writes(subject: Subject, _chance: random.Random) -> Undo:
    """Every write of the daemon that makes a file larger fails: its database first."""
    pid = subject.pid
    _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))

    def undo() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    return undo


def stream(subject: Subject, chance: random.Random) -> Undo:
    """Every client's connection, that of the events among them, three times."""
    for _ in range(3):
        subject.way.cut()
        time.sleep(chance.uniform(0.05, 0.3))
    return _nothing


def none(_subject: Subject, _chance: random.Random) -> Undo:
    """Nothing: the round shows that the run itself is sound."""
    return _nothing


INJECTORS: dict[str, Injector] = {
    "none": none,
    "daemon": daemon,
    "zygote": zygote,
    "monitor": monitor,
    "dnsmasq": dnsmasq,
    "pool-full": pool_full,
    "no-writes": no_writes,
    "stream": stream,
}
