# SPDX-License-Identifier: Apache-2.0
"""What is left when parts of a running container are killed: nothing.

For the bundled daemon: real LXD has other processes.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from nova_lxd.tests.faults.injectors import processes
from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


@pytest.fixture(autouse=True)
def _bundled(backend: str) -> None:
    if backend != "bundled":
        pytest.skip("kills the bundled daemon's processes")


def monitor(daemon: Daemon, name: str) -> int:
    """The pid, as seen from here, of a container's monitor."""
    for pid, title in processes(daemon):
        if title.startswith("[lxc monitor]") and title.endswith(f" {name}"):
            return pid
    raise AssertionError(f"{name} has no monitor")


def ended(pid: int) -> bool:
    """Is it gone, or a zombie whose parent does not look?"""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def groups(daemon: Daemon, name: str) -> list[Path]:
    """The control groups of a container, in every hierarchy."""
    return [p for top in daemon.sandbox.cgroups for p in top.glob(f"**/lxc.*.{name}")]


@pytest.mark.parametrize("init_too", [False, True])
def test_killed_monitor_leaves_no_control_group(
    daemon: Daemon, launch: Launch, init_too: bool
) -> None:
    name = launch()
    assert groups(daemon, name)
    pid = monitor(daemon, name)
    (init,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    if init_too:  # the monitor must not clean up after it
        os.kill(pid, signal.SIGSTOP)
        os.kill(int(init), signal.SIGKILL)
        wait_for(lambda: ended(int(init)), "the end of init")
    os.kill(pid, signal.SIGKILL)
    daemon.wait_status(name, "Stopped")
    wait_for(lambda: not groups(daemon, name), f"the end of {name}'s control groups", timeout=10)
    daemon.lxc("start", name)
    assert daemon.exec(name, "echo", "back") == "back"
