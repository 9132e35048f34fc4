# SPDX-License-Identifier: Apache-2.0
"""A host of one's own for tests: a network namespace, an LXD_DIR, namespaces as guests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.host import syscalls
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.paths import Paths


class Guest:
    """A process in a network namespace of its own, which stands for an instance's init."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pid = self._process.pid
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, check: bool = True, timeout: float = 30) -> str:
        """Run a program in the guest's network namespace and return what it printed."""
        done = subprocess.run(
            ["nsenter", "--net", "-t", str(self.pid), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} failed: {done.stdout}")
        return done.stdout

    def can_reach(self, address: str) -> bool:
        """Does one of a few pings come back?"""
        done = self.run("busybox", "ping", "-c", "3", "-W", "1", address, check=False)
        assert "packets transmitted" in done, done
        return ", 0 packets received" not in done

    def popen(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["nsenter", "--net", "-t", str(self.pid), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def netns() -> Iterator[None]:
    """The test, and all that it runs, is in an empty network namespace with lo up."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    try:
        with Netlink() as nl:
            nl.set_link(nl.link("lo").index, up=True)
        yield
    finally:
        syscalls.setns(home, syscalls.CLONE_NEWNET)
        os.close(home)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An LXD_DIR that other users can get through, as the daemon makes it."""
    for directory in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
        directory.chmod(directory.stat().st_mode | 0o011)
    root = tmp_path / "lxd"
    root.mkdir(mode=0o711)
    return Paths(root)


@pytest.fixture
def guest(netns: None) -> Iterator[Callable[[], Guest]]:
    """Makes guests that end with the test."""
    made: list[Guest] = []

    def make() -> Guest:
        made.append(Guest())
        return made[-1]

    yield make
    for one in made:
        one.end()
