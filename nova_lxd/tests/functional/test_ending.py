# SPDX-License-Identifier: Apache-2.0
"""The end of the daemon: how long it waits for running operations."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for

LONG = "sleep 6; echo done"


@contextmanager
def command(daemon: Daemon, script: str) -> Iterator[subprocess.Popen[str]]:
    """A shell in the guest that runs as an operation of the daemon."""
    argv = ["lxc", "exec", "c1", "--mode=non-interactive", "--", "sh", "-c", script]
    with subprocess.Popen(
        argv,
        env=daemon.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            wait_for(lambda: daemon.get("/1.0/operations").get("running"), "the operation")
            yield running
        finally:
            running.kill()


def test_shutdown_waits_for_running_operations(own: Daemon) -> None:
    own.lxc("launch", "busybox", "c1")
    with command(own, LONG) as running:
        asked = time.monotonic()
        assert own.admin("shutdown").returncode == 0
        assert time.monotonic() - asked > 3
        assert running.communicate(timeout=20)[0] == "done\n"
        assert running.returncode == 0


def test_forced_shutdown_does_not_wait(own: Daemon) -> None:
    own.lxc("launch", "busybox", "c1")
    with command(own, "sleep 100; echo done") as running:
        assert own.admin("shutdown", "--force").returncode == 0
        assert "done" not in running.communicate(timeout=20)[0]


def test_shutdown_timeout_bounds_the_wait(own: Daemon) -> None:
    own.lxc("config", "set", "core.shutdown_timeout", "0")
    own.lxc("launch", "busybox", "c1")
    with command(own, "sleep 100; echo done") as running:
        assert own.admin("shutdown").returncode == 0
        assert "done" not in running.communicate(timeout=20)[0]


def test_shutdown_client_gives_up(own: Daemon) -> None:
    own.lxc("launch", "busybox", "c1")
    with command(own, LONG) as running:
        given_up = own.admin("shutdown", "--timeout", "1")
        assert given_up.returncode == 1 and "still runs" in given_up.stderr.replace(
            "LXD still running", "still runs"
        )
        assert running.communicate(timeout=20)[0] == "done\n"


def test_sigterm_waits_and_a_running_guest_stays(own: Daemon) -> None:
    own.lxc("launch", "busybox", "c1")
    with command(own, LONG) as running:
        assert own.stop(signal.SIGTERM) == 0
        assert running.communicate(timeout=20)[0] == "done\n"
    own.start()
    assert own.status("c1") == "Running"
