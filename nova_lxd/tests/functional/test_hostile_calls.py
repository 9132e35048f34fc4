# SPDX-License-Identifier: Apache-2.0
"""Calls with words, sizes, secrets and paths that no honest client sends.

For the bundled daemon only: they are about its own limits and sentences.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nova_lxd.tests.functional.conftest import remove
from nova_lxd.tests.functional.daemon import Answer, Daemon
from nova_lxd.tests.functional.sandbox import wait_for

EXEC = "/1.0/instances/guest/exec"
FILES = "/1.0/instances/guest/files?path="
TEMPLATES = "/1.0/instances/guest/metadata/templates?path="
RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def guest(daemon: Daemon, backend: str) -> Iterator[str]:
    """One running guest for all tests here."""
    if backend != "bundled":
        pytest.skip("tests the limits of the bundled daemon")
    daemon.lxc("launch", "busybox", "guest")
    yield "guest"
    remove(daemon, "guest")


def execute(daemon: Daemon, **body: Any) -> Any:
    """The finished operation of a program that may have failed, or the refusal."""
    answer = daemon.api("POST", EXEC, {"command": ["true"], **body})
    if answer.status != 202:
        return answer
    return daemon.get(f"{answer.body['operation']}/wait?timeout=20")


class WebSocket:
    """A client's end, as far as hostile tests need it: the handshake and masked frames."""

    def __init__(self, daemon: Daemon, operation: str, secret: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(20)
        self._socket.connect(str(daemon.socket))
        lines = (
            f"GET {operation}/websocket?secret={quote(secret)} HTTP/1.1", "Host: lxd",
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
        )  # fmt: skip
        self._socket.sendall("\r\n".join(lines).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = self._socket.recv(4096)
            if not chunk:
                break
            head += chunk
        self.status = int(head.split()[1])

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def send(self, data: bytes, opcode: int = 1) -> None:
        """One frame, masked with zeros."""
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
        self._socket.sendall(bytes([0x80 | opcode]) + length + bytes(4) + data)

    def read(self) -> bytes:
        """All that comes until the daemon says goodbye, with the frames' heads."""
        data = b""
        while b"\x88\x02" not in data and (chunk := self._socket.recv(4096)):
            data += chunk
        return data

    def close(self) -> None:
        """Go without a word, as a client that crashed."""
        with contextlib.suppress(OSError):
            self._socket.close()


@contextlib.contextmanager
def session(daemon: Daemon, *command: str, **body: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """(operation, secrets) of a program that waits for its sockets."""
    answer = daemon.api(
        "POST", EXEC, {"command": list(command), "wait-for-websocket": True, **body}
    )
    yield answer.body["operation"], answer.metadata["metadata"]["fds"]


# -- exec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"environment": {"A=B": "x"}}, 400),
        ({"environment": {"A": "x\0y"}}, 400),
        ({"environment": {"A\0": "x"}}, 400),
        ({"command": ["true\0"]}, 400),
        ({"cwd": "/\0"}, 400),
        ({"user": 2**32 - 1}, 400),
        ({"group": -1}, 400),
        ({"environment": {f"K{number}": "v" * 1000 for number in range(1500)}}, 413),
        ({"environment": {f"K{number}": "v" * 1000 for number in range(9000)}}, 413),
        ({"command": ["true"] * 300_000}, 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_words_that_cannot_be_executed(
    daemon: Daemon, guest: str, body: dict[str, Any], status: int
) -> None:
    answer = execute(daemon, **body)
    assert isinstance(answer, Answer) and answer.status == status, answer
    assert answer.error.startswith("Executing a command failed: ")
    assert daemon.exec(guest, "echo", "alive") == "alive"


def test_one_word_beyond_the_kernels_limit(daemon: Daemon, guest: str) -> None:
    """The kernel of the guest refuses it, after the daemon has passed it on."""
    done = execute(daemon, environment={"A": "x" * 200_000})
    assert done["metadata"]["return"] not in (0, None)


def test_environment_arrives_byte_by_byte(daemon: Daemon, guest: str) -> None:
    odd = {"A B": "two words", "C\n": "line\nline", "É": "ü\x01\x1b[2J", "container": "mine"}
    command = {"command": ["cat", "/proc/self/environ"], "record-output": True}
    done = execute(daemon, **command, environment=odd)
    seen = daemon.api("GET", done["metadata"]["output"]["1"]).body.split(b"\0")
    for name, value in odd.items():
        assert f"{name}={value}".encode() in seen


def test_sizes_that_no_terminal_has(daemon: Daemon, guest: str) -> None:
    command = ("sh", "-c", "sleep 0.5; stty size")
    with (
        session(daemon, *command, interactive=True, width=10**7, height=-3) as (op, fds),
        WebSocket(daemon, op, fds["control"]) as control,
        WebSocket(daemon, op, fds["0"]) as terminal,
    ):
        for text in (
            b'{"command": "window-resize", "args": {"width": "99999999999", "height": "99999"}}',
            b'{"command": "window-resize", "args": []}',
            b'{"command": "signal", "signal": 99999999999999999999}',
            b'{"command": "signal", "signal": 1e300}',
            b"[" * 100,
            b"\xff",
            b'{"command": "window-resize", "args": {"width": "77", "height": "31"}}',
        ):
            control.send(text, opcode=1 if text != b"\xff" else 2)
        assert b"31 77" in terminal.read()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limits.processes", "99999999999999"),
        ("limits.memory", "1"),
        ("linux.sysctl.net.a", "1\nlxc.hook.start-host = /bin/x"),
        ("linux.sysctl.net.a\nlxc.hook.start-host = /bin/x", "1"),
        ("environment.A\nlxc.hook.start-host = /bin/x", "1"),
        ("limits.kernel.nofile\nlxc.x", "1"),
    ],
)
def test_values_that_neither_kernel_nor_liblxc_takes(
    daemon: Daemon, guest: str, key: str, value: str
) -> None:
    answer = daemon.api("PATCH", "/1.0/instances/guest", {"config": {key: value}})
    assert answer.status == 400, answer
    assert key not in daemon.instance(guest)["config"]


# -- WebSockets -------------------------------------------------------------------------------


def test_secrets_are_for_one_socket_of_one_operation_once(daemon: Daemon, guest: str) -> None:
    with (
        session(daemon, "cat") as (one, fds),
        session(daemon, "cat") as (two, others),
        WebSocket(daemon, one, fds["0"]) as first,
    ):
        assert first.status == 101
        for operation, secret in (
            (one, fds["0"]),
            (one, others["0"]),
            (two, fds["1"]),
            (one, ""),
            (one, "\udcff"),
            (one, fds["1"][:-1]),
            (one, fds["1"] + "0"),
        ):
            with WebSocket(daemon, operation, secret.encode("utf-8", "replace").decode()) as wrong:
                assert wrong.status in (400, 403), (operation, secret)
        # Refused secrets have not used up the right ones.
        with (
            WebSocket(daemon, one, fds["1"]) as out,
            WebSocket(daemon, one, fds["2"]) as err,
        ):
            assert (out.status, err.status) == (101, 101)
            first.send(b"")
            done = daemon.get(f"{one}/wait?timeout=20")
            assert (done["status"], done["metadata"]["return"]) == ("Success", 0)
        with WebSocket(daemon, one, fds["control"]) as late:
            assert late.status in (403, 404)


def test_a_session_waits_for_its_sockets_for_a_while_only(daemon: Daemon, guest: str) -> None:
    with session(daemon, "cat") as (operation, fds), WebSocket(daemon, operation, fds["0"]):
        began = time.monotonic()
        done = daemon.get(f"{operation}/wait?timeout=20")
        assert done["status"] == "Failure" and "websockets" in done["err"]
        assert time.monotonic() - began < 17
    assert daemon.exec(guest, "sh", "-c", "pidof cat || echo none") == "none"


def test_a_program_that_nobody_reads_ends(daemon: Daemon, guest: str) -> None:
    """Without a control socket: the closed pipe tells it, as in a shell's pipeline."""
    with session(daemon, "yes", "unread") as (operation, fds):
        sockets = [WebSocket(daemon, operation, fds[name]) for name in "012"]
        for each in sockets:
            each.close()
        assert daemon.get(f"{operation}/wait?timeout=20")["status_code"] in (200, 400)
    assert daemon.exec(guest, "sh", "-c", "pidof yes || echo none") == "none"


def test_clients_that_crash_leave_nothing(daemon: Daemon, guest: str) -> None:
    """Programs end with their control socket, and the daemon gives every descriptor back."""
    held = Descriptors(daemon)
    for _ in range(10):
        with session(daemon, "sleep", "777") as (operation, fds):
            sockets = [WebSocket(daemon, operation, secret) for secret in fds.values()]
            for each in sockets:
                each.close()
    script = "pidof sleep || echo none"
    wait_for(lambda: daemon.exec(guest, "sh", "-c", script) == "none", "the programs' end")
    wait_for(lambda: held.now() <= held.before + 2, f"descriptors: {held}", timeout=20)


class Descriptors:
    """How many sockets, pipes and terminals the daemon holds, once and now.

    Files are left out: every thread has its own connection to the database.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._pid = daemon.pid
        self.before = self.now()

    def now(self) -> int:
        found = []
        for entry in Path(f"/proc/{self._pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(entry))
        kinds = ("socket:", "pipe:", "anon_inode:[pidfd]", "/dev/pts/")
        return sum(each.startswith(kinds) for each in found)

    def __repr__(self) -> str:
        return f"{self.before} before, {self.now()} now"


# -- operations and queries -------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["timeout=" + "9" * 20, "timeout=" + "9" * 400, "timeout=" + "9" * 4000, "timeout=x"]
)
def test_waiting_for_ever_and_longer(daemon: Daemon, guest: str, query: str) -> None:
    operation = daemon.api("POST", EXEC, {"command": ["sleep", "0.3"]}).body["operation"]
    answer = daemon.api("GET", f"{operation}/wait?{query}")
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert answer.metadata["status"] == "Success"


@pytest.mark.parametrize(
    "path",
    [
        "/1.0/instances?recursion=" + "9" * 5000,
        "/1.0/instances?filter=%ff",
        "/1.0/instances?project=%ff%00",
        "/1.0/instances/%ff",
        "/1.0/instances/guest/logs/%ff",
        "/1.0/instances/guest/backups/..%2f..",
        "/1.0/operations/%ff/wait?secret=%ff",
        "/1.0/storage-pools/default/volumes/custom/%2e%2e",
        FILES + "%ff",
        TEMPLATES + "%ff",
        TEMPLATES + "..%2fmetadata.yaml",
    ],
)
def test_queries_beyond_text_and_number(daemon: Daemon, guest: str, path: str) -> None:
    answer = daemon.api("GET", path)
    assert answer.status in (200, 400, 404), answer


# -- files and templates ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a\r\nX-Injected: 1", "\x1b[2J", "x" * 256, "é" * 128, ".x", ".."]
)
def test_names_that_no_template_has(daemon: Daemon, guest: str, name: str) -> None:
    answer = daemon.api("POST", TEMPLATES + quote(name), b"x", headers=RAW)
    assert (answer.status, answer.error[:16]) == (400, "Invalid template")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, 'a";b', "a%00b", "a b"])
def test_names_that_a_template_may_have(daemon: Daemon, guest: str, name: str) -> None:
    path = TEMPLATES + quote(name)
    assert daemon.api("POST", path, b"some text", headers=RAW).status == 200
    assert daemon.api("GET", path).body == b"some text"
    assert name in daemon.get(TEMPLATES.partition("?")[0])
    assert daemon.api("DELETE", path).status == 200


@pytest.mark.parametrize(
    "path",
    ["/root/fifo", "/dev/null", "/dev/console", "/dev/ptmx", "/dev/lxd/sock", "/proc/1/environ",
     "/proc/1/mem", "/proc/kmsg", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper",
     "/proc/self/root/etc/passwd", "/proc/1/root/etc/passwd", "/root/magic", "/root/loop"],
)  # fmt: skip
def test_what_is_no_file_is_neither_read_nor_written(
    daemon: Daemon, guest: str, path: str
) -> None:
    """And nothing hangs: not a FIFO without another end, not a console."""
    script = (
        "cd /root; [ -p fifo ] || mkfifo fifo; ln -sfn /proc/1/root/etc/passwd magic;"
        "ln -sfn loop loop"
    )
    daemon.exec(guest, "sh", "-c", script)
    is_link = path in ("/root/magic", "/root/loop")
    for method, body in (("GET", None), ("POST", b"owned")):
        if method == "GET" and is_link:
            continue
        headers = {"X-LXD-type": "file"}
        answer = daemon.api(method, FILES + path, body, headers=headers, timeout=10)
        assert answer.status in (400, 403, 404), (method, answer)


def test_links_swapped_meanwhile_never_lead_out(daemon: Daemon, guest: str) -> None:
    """A guest swaps a directory for a link to the host's, as fast as it can, while files come."""
    swap = (
        "cd /root; mkdir -p real; echo inside > real/hostname; ln -sfn /../../../../etc away;"
        "while :; do ln -sfn real at; ln -sfn away at; ln -sfn /proc/self/root/etc at; done"
    )
    daemon.exec(guest, "sh", "-c", f"({swap}) >/dev/null 2>&1 </dev/null & echo $! > /tmp/swapper")
    host = daemon.inside("cat", "/etc/hostname").stdout
    mine = daemon.exec(guest, "cat", "/etc/hostname") + "\n"
    try:
        for number in range(150):
            answer = daemon.api("GET", f"{FILES}/root/at/hostname")
            assert answer.status in (200, 400, 404), answer
            if answer.status == 200:
                assert answer.body.decode() in ("inside\n", mine) and answer.body.decode() != host
            headers = {"X-LXD-type": "file", "X-LXD-mode": "0600"}
            name = f"nova-lxd-hostile-{number}"
            answer = daemon.api("POST", f"{FILES}/root/at/{name}", b"x", headers=headers)
            assert answer.status in (200, 400, 404), answer
            assert daemon.inside("test", "-e", f"/etc/{name}", check=False).returncode == 1
    finally:
        daemon.exec(guest, "sh", "-c", "kill -9 $(cat /tmp/swapper)")
