# SPDX-License-Identifier: Apache-2.0
"""`lxc exec`, interactive and not, and the exec API below it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from nova_lxd.tests.functional.conftest import remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


@pytest.fixture(scope="module")
def guest(daemon: Daemon) -> Iterator[str]:
    """One running guest for all tests here; none of them changes it for good."""
    daemon.lxc("launch", "busybox", "guest")
    yield "guest"
    remove(daemon, "guest")


def test_stdout_and_stderr_are_apart(daemon: Daemon, guest: str) -> None:
    done = daemon.lxc("exec", guest, "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("code", [0, 1, 3, 42, 255])
def test_exit_code(daemon: Daemon, guest: str, code: int) -> None:
    done = daemon.lxc("exec", guest, "--", "sh", "-c", f"exit {code}", check=False)
    assert done.returncode == code


def test_death_by_signal_is_128_plus(daemon: Daemon, guest: str) -> None:
    done = daemon.lxc("exec", guest, "--", "sh", "-c", "kill -KILL $$", check=False)
    assert done.returncode == 137


def test_missing_and_not_executable(daemon: Daemon, guest: str) -> None:
    done = daemon.lxc("exec", guest, "--", "/no/such", check=False)
    assert (done.returncode, done.stderr) == (127, "Error: Command not found\n")
    done = daemon.lxc("exec", guest, "--", "/etc/passwd", check=False)
    assert (done.returncode, done.stderr) == (126, "Error: Command not executable\n")


def test_environment(daemon: Daemon, guest: str) -> None:
    done = daemon.lxc("exec", guest, "--env", "A=b c", "--", "env")
    lines = done.stdout.splitlines()
    assert "A=b c" in lines
    assert "HOME=/root" in lines and "USER=root" in lines and "LANG=C.UTF-8" in lines
    (path,) = [line for line in lines if line.startswith("PATH=")]
    assert "/usr/sbin" in path and "/bin" in path


def test_working_directory(daemon: Daemon, guest: str) -> None:
    assert daemon.lxc("exec", guest, "--", "pwd").stdout == "/root\n"
    assert daemon.lxc("exec", guest, "--cwd", "/var/lib", "--", "pwd").stdout == "/var/lib\n"


def test_user_and_group(daemon: Daemon, guest: str) -> None:
    done = daemon.lxc("exec", guest, "--user", "1000", "--group", "1000", "--", "id")
    assert "uid=1000(guest) gid=1000(guest)" in done.stdout
    assert daemon.exec(guest, "id", "-u") == "0"


def test_no_extra_privileges_leak_in(daemon: Daemon, guest: str) -> None:
    fds = daemon.exec(guest, "sh", "-c", "ls /proc/self/fd").split()
    # 0, 1, 2 and the directory that ls reads.
    assert len(fds) <= 4, fds
    tree = daemon.exec(guest, "readlink", "/proc/self/ns/pid")
    assert tree == daemon.exec(guest, "readlink", "/proc/1/ns/pid")
    user = daemon.exec(guest, "readlink", "/proc/self/ns/user")
    assert user == daemon.exec(guest, "readlink", "/proc/1/ns/user")


def test_ten_megabytes_through_stdin(daemon: Daemon, guest: str) -> None:
    data = os.urandom(10 << 20)
    done = daemon.lxc_bytes("exec", guest, "--", "sha256sum", input=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_ten_megabytes_back(daemon: Daemon, guest: str) -> None:
    data = os.urandom(10 << 20)
    done = daemon.lxc_bytes("exec", guest, "--", "cat", input=data)
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_end_of_input_is_passed_on(daemon: Daemon, guest: str) -> None:
    done = daemon.lxc_bytes("exec", guest, "--", "wc", "-c", input=b"")
    assert done.stdout.strip() == b"0"


def test_many_at_once(daemon: Daemon, guest: str) -> None:
    running = [
        subprocess.Popen(
            ["lxc", "exec", guest, "--", "sh", "-c", f"sleep 0.2; echo {i}"],
            env=daemon.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(12)
    ]
    assert [each.communicate(timeout=60)[0].strip() for each in running] == [
        str(i) for i in range(12)
    ]


def test_on_a_stopped_instance(daemon: Daemon) -> None:
    daemon.lxc("init", "busybox", "down")
    try:
        assert "not running" in daemon.refused("exec", "down", "--", "true")
    finally:
        remove(daemon, "down")


class Terminal:
    """`lxc exec` on a pseudo terminal of ours."""

    def __init__(self, daemon: Daemon, *argv: str, rows: int = 33, columns: int = 101) -> None:
        self._pid, self.fd = pty.fork()
        if self._pid == 0:
            os.execvpe("lxc", ["lxc", *argv], daemon.environment)
        self.resize(rows, columns)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def expect(self, text: bytes, timeout: float = 20) -> bytes:
        """Read until ``text`` was seen; what came up to it is taken away and given back."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come, only {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError as exc:
                    raise AssertionError(f"ended before {text!r}: {self.seen!r}") from exc
        before, _sep, self.seen = self.seen.partition(text)
        return before

    def wait(self, timeout: float = 20) -> int:
        """The exit code, after reading what is left."""
        deadline = time.monotonic() + timeout
        while True:
            if select.select([self.fd], [], [], 0.05)[0]:
                # EIO: the other side is closed.
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.fd, 65536)
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"still running: {self.seen!r}"


def test_interactive_shell(daemon: Daemon, guest: str) -> None:
    terminal = Terminal(daemon, "exec", guest, "--", "sh")
    terminal.expect(b"# ")
    terminal.send(b"tty; stty size; echo TERM=$TERM\n")
    assert b"/dev/pts/" in terminal.expect(b"33 101")
    terminal.expect(b"TERM=xterm")
    terminal.send(b"exit 7\n")
    assert terminal.wait() == 7


def test_resize_reaches_the_guest(daemon: Daemon, guest: str) -> None:
    terminal = Terminal(daemon, "exec", guest, "--", "sh")
    terminal.expect(b"# ")
    terminal.resize(40, 132)
    os.kill(terminal._pid, 28)  # SIGWINCH
    deadline = time.monotonic() + 10
    while True:
        terminal.send(b"stty size; echo d''one\n")
        if b"40 132" in terminal.expect(b"done"):
            break
        assert time.monotonic() < deadline
    terminal.send(b"exit\n")
    assert terminal.wait() == 0


def test_control_c_interrupts_the_guests_command(daemon: Daemon, guest: str) -> None:
    terminal = Terminal(daemon, "exec", guest, "--", "sh")
    terminal.expect(b"# ")
    terminal.send(b"sleep 100; echo rc=$?\n")
    time.sleep(0.5)
    terminal.send(b"\x03")
    terminal.expect(b"# ")
    terminal.send(b"exit 3\n")
    assert terminal.wait() == 3


def test_no_terminal_unless_there_is_one(daemon: Daemon, guest: str) -> None:
    done = daemon.lxc("exec", guest, "--", "tty", check=False)
    assert done.returncode == 1 and "not a tty" in done.stdout
    terminal = Terminal(daemon, "exec", guest, "-T", "--", "tty")
    terminal.expect(b"not a tty")
    assert terminal.wait() == 1


def test_signals_are_forwarded(daemon: Daemon, guest: str) -> None:
    client = subprocess.Popen(
        [
            "lxc",
            "exec",
            guest,
            "--",
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done",
        ],
        env=daemon.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.terminate()
    assert client.wait(timeout=20) == 9
    client.stdout.close()


def test_recorded_output(daemon: Daemon, guest: str) -> None:
    done = daemon.operate(
        "POST",
        f"/1.0/instances/{guest}/exec",
        {
            "command": ["sh", "-c", "echo out; echo err >&2; exit 3"],
            "record-output": True,
            "wait-for-websocket": False,
            "interactive": False,
        },
    )
    assert done["class"] == "task" and done["description"] == "Executing command"
    assert done["metadata"]["return"] == 3
    output = done["metadata"]["output"]
    assert daemon.api("GET", output["1"]).body == b"out\n"
    assert daemon.api("GET", output["2"]).body == b"err\n"
    assert output["1"] in daemon.get(f"/1.0/instances/{guest}/logs")
    assert daemon.api("DELETE", output["1"]).status == 200
    # Real LXD says 500 of a log file that is gone.
    assert daemon.api("GET", output["1"]).status in (404, 500)


def test_no_wait_gives_the_return_code_only(daemon: Daemon, guest: str) -> None:
    done = daemon.operate(
        "POST", f"/1.0/instances/{guest}/exec", {"command": ["sh", "-c", "exit 5"]}
    )
    assert done["metadata"] == {"return": 5}


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        (["/no/such"], 127, "Command not found"),
        (["/etc/passwd"], 126, "Command not executable"),
        (["sh", "-c", "exit 127"], 127, "Command not found"),
    ],
)
@pytest.mark.parametrize("record", [False, True])
def test_operation_fails_when_no_program_could_be_run(
    daemon: Daemon, guest: str, command: list[str], code: int, reason: str, record: bool
) -> None:
    body = {"command": command, "record-output": record}
    started = daemon.api("POST", f"/1.0/instances/{guest}/exec", body)
    done = daemon.get(f"{started.body['operation']}/wait?timeout=20")
    assert (done["status"], done["err"]) == ("Failure", reason)
    assert done["metadata"]["return"] == code
    assert ("output" in done["metadata"]) is record


def test_session_without_a_terminal_is_not_the_programs_own(daemon: Daemon, guest: str) -> None:
    stat = daemon.lxc("exec", guest, "-T", "--", "cat", "/proc/self/stat").stdout
    group, session = stat.rpartition(")")[2].split()[2:4]
    assert (group, session) == ("0", "0"), "they are outside"


def test_websocket_operation_offers_its_secrets(daemon: Daemon, guest: str) -> None:
    answer = daemon.api(
        "POST",
        f"/1.0/instances/{guest}/exec",
        {"command": ["true"], "wait-for-websocket": True, "interactive": False},
    )
    assert answer.status == 202
    operation = answer.metadata
    assert operation["class"] == "websocket"
    assert operation["status"] == "Running" and operation["may_cancel"] is False
    assert set(operation["metadata"]["fds"]) == {"0", "1", "2", "control"}
    assert all(len(secret) == 64 for secret in operation["metadata"]["fds"].values())
    wrong = daemon.api("GET", f"{answer.body['operation']}/websocket?secret={'0' * 64}")
    # Real LXD says 500 "permission denied".
    assert wrong.status in (403, 500) and wrong.error


def test_unconnected_websockets_time_out(daemon: Daemon, guest: str) -> None:
    answer = daemon.api(
        "POST",
        f"/1.0/instances/{guest}/exec",
        {"command": ["true"], "wait-for-websocket": True, "interactive": False},
    )
    path = answer.body["operation"]

    def failed() -> bool:
        got = daemon.api("GET", path)
        return got.status == 404 or got.metadata["status"] == "Failure"

    wait_for(failed, "giving up on the client", timeout=15)


def test_processes_end_with_their_session(daemon: Daemon, guest: str) -> None:
    daemon.exec(guest, "true")
    before = daemon.get(f"/1.0/instances/{guest}/state")["processes"]
    for _ in range(5):
        daemon.exec(guest, "true")
    wait_for(
        lambda: daemon.get(f"/1.0/instances/{guest}/state")["processes"] <= before,
        "no more processes than before",
    )
