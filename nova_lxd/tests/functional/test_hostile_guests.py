# SPDX-License-Identifier: Apache-2.0
"""Guests that ask /dev/lxd/sock for more than is theirs, or more than it can bear.

For the bundled daemon only: they are about its own limits.
"""

from __future__ import annotations

import pytest

from nova_lxd.lxd.guest.door import PER_GUEST
from nova_lxd.tests.functional.conftest import Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.functional.test_devlxd import ask


@pytest.fixture(autouse=True)
def _bundled(backend: str) -> None:
    if backend != "bundled":
        pytest.skip("tests the limits of the bundled daemon")


def connect(daemon: Daemon, guest: str, count: int) -> None:
    """Let a guest open connections on which it never says anything."""
    one = "(sleep 600 | unixcat /dev/lxd/sock) >/dev/null 2>&1 </dev/null &"
    daemon.exec(guest, "sh", "-c", f"for i in $(seq {count}); do {one} done")


def held(daemon: Daemon, guest: str) -> int:
    """How many of them are open."""
    return int(daemon.exec(guest, "sh", "-c", "pidof unixcat | wc -w"))


def test_connections_of_one_guest_do_not_cost_the_others(daemon: Daemon, launch: Launch) -> None:
    greedy, modest = launch("-c", "user.who=greedy"), launch("-c", "user.who=modest")
    connect(daemon, greedy, PER_GUEST + 20)
    wait_for(lambda: held(daemon, greedy) == PER_GUEST, "the surplus's end", timeout=30)
    assert ask(daemon, modest, "/1.0/config/user.who") == (200, "modest")
    assert daemon.exec(greedy, "sh", "-c", "echo | unixcat /dev/lxd/sock", check=False) == ""
    daemon.exec(greedy, "killall", "sleep", "unixcat", check=False)
    wait_for(lambda: held(daemon, greedy) == 0, "the connections' end")
    assert ask(daemon, greedy, "/1.0/config/user.who") == (200, "greedy")


def test_connections_end_with_their_guest(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    connect(daemon, name, PER_GUEST)
    wait_for(lambda: held(daemon, name) == PER_GUEST, "the connections")
    daemon.lxc("restart", "-f", name)
    assert ask(daemon, name, "/1.0")[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /1.0 HTTP/1.0\\r\\n" + "X-A: b\\r\\n" * 400, 400),
        ("GET /1.0 HTTP/1.0\\r\\nX-A: " + "b" * 9000 + "\\r\\n", 400),
        ("GET /" + "x" * 9000 + " HTTP/1.0\\r\\n", 400),
        ("PATCH /1.0 HTTP/1.0\\r\\nContent-Length: 2\\r\\n\\r\\n[]", 400),
        ("PATCH /1.0 HTTP/1.0\\r\\nContent-Length: 14\\r\\n\\r\\n{\\042state\\042: []}", 400),
        ("GET /1.0/config/volatile.uuid HTTP/1.0\\r\\n", 403),
        ("GET /1.0/config/limits.memory HTTP/1.0\\r\\n", 403),
        ("GET /1.0/config/user.%%ff HTTP/1.0\\r\\n", 404),
        ("GET /1.0/config/..%%2f..%%2finstances HTTP/1.0\\r\\n", 403),
        ("GET /1.0/instances HTTP/1.0\\r\\n", 404),
        ("GET /internal/ready HTTP/1.0\\r\\n", 404),
        ("DELETE /1.0/config/user.who HTTP/1.0\\r\\n", 405),
        ("GET /1.0/events?type=lifecycle HTTP/1.0\\r\\n", 400),
        ("GET /1.0/images/0000/export HTTP/1.0\\r\\n", 403),
    ],
    ids=lambda value: str(value)[:40],
)
def test_requests_that_are_refused(
    daemon: Daemon, launch: Launch, request_: str, status: int
) -> None:
    name = launch("-c", "user.who=one", "-c", "limits.memory=64MiB", name="asker")
    script = f"(printf '{request_}\\r\\n'; sleep 0.5) | unixcat /dev/lxd/sock"
    text = daemon.lxc_bytes("exec", name, "--", "sh", "-c", script).stdout.decode()
    assert text.split()[1:2] == [str(status)], text
    assert "Traceback" not in text and "limits" not in text.replace("limits.memory", "")


def test_a_body_beyond_measure(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    size = 3 << 20
    head = f"PATCH /1.0 HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {size}\\r\\n\\r\\n"
    script = (
        f"(printf '{head}'; head -c {size} /dev/zero; sleep 0.5) | unixcat /dev/lxd/sock || true"
    )
    text = daemon.lxc_bytes("exec", name, "--", "sh", "-c", script).stdout.decode()
    assert text.startswith("HTTP/1.1 413"), text


def test_the_hosts_processes_are_no_guests(daemon: Daemon, launch: Launch) -> None:
    """Not even root's: the socket tells guests about themselves alone."""
    launch()
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "s.sendall(b'GET /1.0 HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100))"
    )
    done = daemon.inside("python3", "-c", code, f"{daemon.lxd_dir}/devlxd/sock", check=False)
    closed = ("ConnectionResetError", "BrokenPipeError")
    assert done.stdout in ("", "b''\n"), done
    assert done.stdout or any(word in done.stderr for word in closed), done
