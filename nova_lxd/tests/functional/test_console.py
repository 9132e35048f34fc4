# SPDX-License-Identifier: Apache-2.0
"""`lxc console`: the log and the attached terminal."""

from __future__ import annotations

import time

from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.functional.test_exec import Terminal


class Log:
    """All that `lxc console --show-log` ever showed.

    Real LXD hands a running guest's log out once and then fails until there is more.
    """

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._daemon, self._name = daemon, name
        self.text = ""

    def read(self) -> str:
        """What one call shows."""
        shown = self._daemon.lxc("console", self._name, "--show-log", check=False).stdout
        self.text += shown
        return shown

    def wait(self, wanted: str) -> None:
        def there() -> bool:
            self.read()
            return wanted in self.text

        wait_for(there, f"{wanted!r} in the console log")


def prompt(terminal: Terminal) -> None:
    """Press return until a shell answers: keys pressed before it listens are lost."""

    def answered() -> bool:
        terminal.send(b"\n")
        try:
            terminal.expect(b"# ", timeout=1)
        except AssertionError:
            return False
        return True

    wait_for(answered, "a prompt")


def test_show_log(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    wait_for(lambda: daemon.exec(name, "pidof", "sh", check=False), "the boot")
    log = Log(daemon, name)
    log.read()
    assert log.text.startswith("\nConsole log:\n\n")
    if daemon.backend == "bundled":
        # Real LXD may lose the first lines, and shows nothing at all the second time.
        assert log.text.index("busybox guest: boot") < log.text.index("busybox guest: ready")
        assert "busybox guest: ready" in log.read()


def test_log_of_a_stopped_guest_is_kept(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    wait_for(lambda: daemon.exec(name, "pidof", "sh", check=False), "the boot")
    daemon.lxc("stop", "-f", name)
    answer = daemon.api("GET", f"/1.0/instances/{name}/console")
    assert answer.status == 200 and isinstance(answer.body, bytes)
    if daemon.backend == "bundled":
        # Real LXD keeps what came after its last look only.
        assert b"busybox guest: boot" in answer.body


def test_clear_log(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    wait_for(lambda: daemon.exec(name, "pidof", "getty", "sh", check=False), "the boot")
    assert daemon.api("DELETE", f"/1.0/instances/{name}/console").status == 200
    daemon.exec(name, "sh", "-c", "echo later > /dev/console")
    log = Log(daemon, name)
    log.wait("later")
    assert "busybox guest: boot" not in log.text


def test_attach_type_and_detach(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    for _ in range(2):
        # The second time shows that the first one let go of it.
        terminal = Terminal(daemon, "console", name)
        terminal.expect(b"To detach from the console, press: <ctrl>+a q")
        prompt(terminal)
        terminal.send(b"echo con''sole; tty\n")
        terminal.expect(b"console")
        terminal.expect(b"/dev/console")
        terminal.send(b"\x01")
        time.sleep(0.3)
        terminal.send(b"q")
        assert terminal.wait() == 0
        assert daemon.status(name) == "Running"


def test_console_of_a_stopped_guest(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    terminal = Terminal(daemon, "console", name)
    terminal.expect(b"not running")
    assert terminal.wait() == 1
