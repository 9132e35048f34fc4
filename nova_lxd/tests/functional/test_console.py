# SPDX-License-Identifier: Apache-2.0
"""`lxc console`: the log and the attached terminal."""

from __future__ import annotations

from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.functional.test_exec import Terminal


def log(daemon: Daemon, name: str) -> str:
    """The log; empty while the guest has not written a line (real LXD fails then)."""
    return daemon.lxc("console", name, "--show-log", check=False).stdout


def test_show_log(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    wait_for(lambda: "busybox guest: ready" in log(daemon, name), "the boot in the log")
    shown = log(daemon, name)
    assert shown.startswith("\nConsole log:\n\n")
    assert shown.index("busybox guest: boot") < shown.index("busybox guest: ready")


def test_log_of_a_stopped_guest_is_kept(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    wait_for(lambda: "ready" in log(daemon, name), "the boot in the log")
    daemon.lxc("stop", "-f", name)
    answer = daemon.api("GET", f"/1.0/instances/{name}/console")
    assert answer.status == 200
    assert b"busybox guest: boot" in answer.body


def test_clear_log(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    wait_for(lambda: "ready" in log(daemon, name), "the boot in the log")
    assert daemon.api("DELETE", f"/1.0/instances/{name}/console").status == 200
    assert "boot" not in log(daemon, name)
    daemon.exec(name, "sh", "-c", "echo later > /dev/console")
    wait_for(lambda: "later" in log(daemon, name), "what came after")


def test_attach_type_and_detach(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    wait_for(lambda: "ready" in log(daemon, name), "the boot")
    terminal = Terminal(daemon, "console", name)
    terminal.expect(b"To detach from the console, press: <ctrl>+a q")
    terminal.send(b"\n")
    terminal.expect(b"# ")
    terminal.send(b"echo con''sole; tty\n")
    terminal.expect(b"console")
    terminal.expect(b"/dev/console")
    terminal.send(b"\x01q")
    assert terminal.wait() == 0
    assert daemon.status(name) == "Running"
    # A second time: the first one let go of it.
    terminal = Terminal(daemon, "console", name)
    terminal.send(b"\n")
    terminal.expect(b"# ")
    terminal.send(b"\x01q")
    assert terminal.wait() == 0


def test_console_of_a_stopped_guest(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    terminal = Terminal(daemon, "console", name)
    terminal.expect(b"not running")
    assert terminal.wait() == 1
