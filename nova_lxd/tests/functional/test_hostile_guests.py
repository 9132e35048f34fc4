# SPDX-License-Identifier: Apache-2.0
"""Guests that ask /dev/lxd/sock for more than is theirs, or more than it can bear.

For the bundled daemon only: they are about its own limits.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from subprocess import PIPE

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


# -- proxies ----------------------------------------------------------------------------------

TALK = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
s.settimeout(10)
try:
    s.sendall(b"GET /1.0 HTTP/1.0\\r\\n\\r\\n")
    print(s.recv(1000))
except OSError as exc:
    print("closed", exc)
"""


def through(daemon: Daemon, port: int) -> str:
    """What comes back through a proxy that listens on the host."""
    return daemon.inside("python3", "-c", TALK, str(port)).stdout


def add_proxy(daemon: Daemon, guest: str, **keys: str) -> None:
    options = [f"{key.replace('__', '.')}={value}" for key, value in keys.items()]
    daemon.lxc("config", "device", "add", guest, "p", "proxy", *options)


@contextlib.contextmanager
def host_socket(daemon: Daemon) -> Iterator[str]:
    """A socket of the host that greets everyone; no guest may reach it."""
    path = str(daemon.home / "private.sock")
    code = (
        "import socket, sys, threading; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]);"
        "s.listen(); print('ready', flush=True)\n"
        "def serve():\n while True:\n  c = s.accept()[0]; c.sendall(b'of the host'); c.close()\n"
        "threading.Thread(target=serve, daemon=True).start(); sys.stdin.read()"
    )
    server = daemon.sandbox.popen(
        ["python3", "-c", code, path], env=daemon.environment, stdin=PIPE, stdout=PIPE
    )
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            assert sock.recv(20) == b"of the host"
        yield path
    finally:
        server.communicate()


def test_links_of_a_guest_lead_no_proxy_to_the_hosts_sockets(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch()
    with host_socket(daemon) as secret:
        add_proxy(daemon, name, listen="tcp:127.0.0.1:7001", connect="unix:/root/way")
        up = "/" + "../" * 20
        for way in (secret, f"{up}{secret}", f"/proc/self/root{secret}", f"/proc/1/root{secret}"):
            daemon.exec(name, "ln", "-sfn", way, "/root/way")
            assert "of the host" not in through(daemon, 7001), way
        daemon.exec(name, "sh", "-c", "rm /root/way; mkfifo /root/way")
        assert "of the host" not in through(daemon, 7001)


def test_a_listener_inside_is_not_made_through_links(daemon: Daemon, launch: Launch) -> None:
    """The guest swaps the directory of the socket for a link to one of the host."""
    name = launch()
    trap = daemon.home / "trap"
    trap.mkdir(mode=0o777)
    daemon.exec(name, "ln", "-s", str(trap), "/root/dir")
    daemon.refused(
        "config", "device", "add", name, "p", "proxy", "bind=instance",
        "listen=unix:/root/dir/sock", "connect=tcp:127.0.0.1:9",
    )  # fmt: skip
    assert list(trap.iterdir()) == []
    daemon.exec(name, "sh", "-c", "rm /root/dir; touch /root/mine")
    add_proxy(
        daemon, name, bind="instance", listen="unix:/root/sock", connect="tcp:127.0.0.1:9",
        uid="1000", mode="0600",
    )  # fmt: skip
    assert daemon.exec(name, "stat", "-c", "%u %a", "/root/sock") == "1000 600"
    daemon.exec(name, "rm", "/root/sock")
    daemon.exec(name, "ln", "-s", "/root/mine", "/root/sock")
    daemon.lxc("config", "device", "remove", name, "p")
    assert daemon.exec(name, "ls", "/root/mine") == "/root/mine"


def test_a_proxy_of_very_many_ports(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(name, "sh", "-c", "(nc -ll -p 80 -e echo there) >/dev/null 2>&1 </dev/null &")
    add_proxy(daemon, name, listen="tcp:127.0.0.1:10001-29000", connect="tcp:127.0.0.1:80")
    assert "there" in through(daemon, 10001) and "there" in through(daemon, 29000)


def test_a_proxy_outlives_connections_that_break_off(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(name, "sh", "-c", "(nc -ll -p 80 -e echo there) >/dev/null 2>&1 </dev/null &")
    add_proxy(daemon, name, listen="tcp:127.0.0.1:7002", connect="tcp:127.0.0.1:80")
    code = (
        "import socket, struct\n"
        "for n in range(300):\n"
        " s = socket.create_connection(('127.0.0.1', 7002))\n"
        " s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n"
        " s.close()"
    )
    daemon.inside("python3", "-c", code)
    wait_for(lambda: "there" in through(daemon, 7002), "an answer")
