# SPDX-License-Identifier: Apache-2.0
"""Proxies between a host and a guest that are two network namespaces."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.devices import load, proxy_process
from nova_lxd.lxd.devices.interface import Device
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.network import firewall, links
from nova_lxd.lxd.paths import Paths
from nova_lxd.tests.functional.network.host import Guest
from nova_lxd.tests.unit.devices.fakes import make_host, view

pytestmark = [
    pytest.mark.usefixtures("netns"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

# A server for one kind of socket that answers every message with the same in upper case.
SERVER = """
import socket, sys, threading
kind, address = sys.argv[1], sys.argv[2]
if kind == "unix":
    s = socket.socket(socket.AF_UNIX); s.bind(address)
else:
    host, _, port = address.rpartition(":")
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.bind((host, int(port)))
if kind == "udp":
    print("ready", flush=True)
    while True:
        data, who = s.recvfrom(65536)
        s.sendto(data.upper(), who)
s.listen(16)
print("ready", flush=True)
def serve(c):
    with c:
        while data := c.recv(65536):
            c.sendall(data.upper())
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""

Serve = Callable[..., None]


@pytest.fixture
def inside(guest: Callable[[], Guest]) -> Guest:
    return guest()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts the answering server, on the host or in a guest."""
    running: list[subprocess.Popen[str]] = []

    def start(kind: str, address: str, guest: Guest | None = None) -> None:
        enter = ["nsenter", "--net", "-t", str(guest.pid)] if guest else []
        process = subprocess.Popen(
            [*enter, "python3", "-c", SERVER, kind, address], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def proxy(paths: Paths, inside: Guest) -> Iterator[Callable[..., Device]]:
    """Starts proxies and ends them."""
    started: list[Device] = []

    def start(**keys: str) -> Device:
        config = {"type": "proxy"} | {k.replace("__", "."): value for k, value in keys.items()}
        name = f"proxy{len(started)}"
        host = make_host(paths.root)
        device = load.load(name, config, view({name: config}, init_pid=inside.pid), host)
        device.validate()
        device.start()
        started.append(device)
        device.post_start()
        return device

    yield start
    for device in started:
        device.post_stop()


def ask(family: int, address: object, kind: int = socket.SOCK_STREAM) -> bytes:
    with socket.socket(family, kind) as sock:
        sock.settimeout(5)
        sock.connect(address)
        sock.sendall(b"hello")
        return sock.recv(100)


@contextlib.contextmanager
def ended(guest: Guest, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A program in the guest that is ended with the block, however it leaves."""
    with guest.popen(*argv) as process:
        try:
            yield process
        finally:
            process.kill()


def pid_of(device: Device, paths: Paths) -> int | None:
    return proxy_process.find(
        str(paths.instance_devices("default", "c1") / f"proxy.{device.name}")
    )


def test_tcp_into_the_guest(serve: Serve, inside: Guest, proxy: Callable[..., Device]) -> None:
    serve("tcp", "127.0.0.1:80", inside)
    proxy(listen="tcp:127.0.0.1:8080", connect="tcp:127.0.0.1:80")
    for _ in range(3):
        assert ask(socket.AF_INET, ("127.0.0.1", 8080)) == b"HELLO"


def test_ranges_map_port_by_port(
    serve: Serve, inside: Guest, proxy: Callable[..., Device]
) -> None:
    serve("tcp", "127.0.0.1:91", inside)
    proxy(listen="tcp:127.0.0.1:8090-8092", connect="tcp:127.0.0.1:90-92")
    assert ask(socket.AF_INET, ("127.0.0.1", 8091)) == b"HELLO"
    with pytest.raises((ConnectionError, AssertionError)):
        assert ask(socket.AF_INET, ("127.0.0.1", 8090))


def test_tcp_out_of_the_guest(serve: Serve, inside: Guest, proxy: Callable[..., Device]) -> None:
    serve("tcp", "127.0.0.1:5000")
    proxy(listen="tcp:127.0.0.1:6000", connect="tcp:127.0.0.1:5000", bind="instance")
    out = inside.run("busybox", "sh", "-c", "echo hello | busybox nc -w 2 127.0.0.1 6000")
    assert out == "HELLO\n"


def test_udp(serve: Serve, inside: Guest, proxy: Callable[..., Device]) -> None:
    serve("udp", "127.0.0.1:53", inside)
    proxy(listen="udp:127.0.0.1:5353", connect="udp:127.0.0.1:53")
    for _ in range(2):
        assert ask(socket.AF_INET, ("127.0.0.1", 5353), socket.SOCK_DGRAM) == b"HELLO"


def test_unix_listener_has_owner_and_mode_and_goes(
    serve: Serve, inside: Guest, proxy: Callable[..., Device], tmp_path: Path
) -> None:
    serve("tcp", "127.0.0.1:80", inside)
    path = tmp_path / "p.sock"
    device = proxy(
        listen=f"unix:{path}", connect="tcp:127.0.0.1:80", uid="1234", gid="4321", mode="0600"
    )
    info = path.stat()
    assert stat.S_ISSOCK(info.st_mode)
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 4321, 0o600)
    assert ask(socket.AF_UNIX, str(path)) == b"HELLO"
    device.post_stop()
    assert not path.exists()


def test_tcp_to_unix_and_a_stale_socket(
    serve: Serve, proxy: Callable[..., Device], tmp_path: Path
) -> None:
    serve("unix", str(tmp_path / "server.sock"))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "p.sock"))
    proxy(listen=f"unix:{tmp_path}/p.sock", connect=f"unix:{tmp_path}/server.sock")
    assert ask(socket.AF_UNIX, str(tmp_path / "p.sock")) == b"HELLO"


def test_large_transfer_and_half_close(proxy: Callable[..., Device], inside: Guest) -> None:
    amount = 20_000_000
    code = (
        "import socket,hashlib;s=socket.create_server(('127.0.0.1',80));print('r',flush=True);"
        "c=s.accept()[0];h=hashlib.sha256();\n"
        "while d:=c.recv(65536): h.update(d)\n"
        "c.sendall(h.hexdigest().encode());c.close()"
    )
    with ended(inside, "python3", "-c", code) as server:
        assert server.stdout is not None and server.stdout.readline() == "r\n"
        proxy(listen="tcp:127.0.0.1:8080", connect="tcp:127.0.0.1:80")
        payload = os.urandom(1000) * (amount // 1000)
        with socket.create_connection(("127.0.0.1", 8080), 20) as sock:
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)
            digest = sock.recv(100)
    assert digest.decode() == hashlib.sha256(payload).hexdigest()


def test_proxy_protocol(proxy: Callable[..., Device], inside: Guest) -> None:
    code = (
        "import socket;s=socket.create_server(('127.0.0.1',80));print('r',flush=True);"
        "c=s.accept()[0];c.sendall(c.recv(200))"
    )
    with ended(inside, "python3", "-c", code) as server:
        assert server.stdout is not None and server.stdout.readline() == "r\n"
        proxy(listen="tcp:127.0.0.1:8080", connect="tcp:127.0.0.1:80", proxy_protocol="true")
        with socket.create_connection(("127.0.0.1", 8080), 5) as sock:
            port = sock.getsockname()[1]
            assert sock.recv(200) == f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} 8080\r\n".encode()


def test_port_in_use_fails_clearly_and_leaves_no_process(
    proxy: Callable[..., Device], paths: Paths
) -> None:
    with (
        socket.create_server(("127.0.0.1", 8080)),
        pytest.raises(BadRequest, match="Address already in use"),
    ):
        proxy(listen="tcp:127.0.0.1:8080", connect="tcp:127.0.0.1:80")
    assert list(paths.instance_devices("default", "c1").glob("proxy*")) == []


def test_ends_with_the_instance(proxy: Callable[..., Device], inside: Guest, paths: Paths) -> None:
    device = proxy(listen="tcp:127.0.0.1:8080", connect="tcp:127.0.0.1:80")
    assert pid_of(device, paths) is not None
    os.kill(inside.pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while pid_of(device, paths) and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", 8080), 1).close()
        except OSError:
            break
        time.sleep(0.05)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 8080), 1)


def test_outlives_the_process_that_started_it(
    inside: Guest, paths: Paths, serve: Serve, proxy: Callable[..., Device]
) -> None:
    serve("tcp", "127.0.0.1:80", inside)
    code = f"""
import os, signal, pathlib
from nova_lxd.tests.unit.devices.fakes import make_host, view
from nova_lxd.lxd.devices import load
config = {{"type": "proxy", "listen": "tcp:127.0.0.1:8080", "connect": "tcp:127.0.0.1:80"}}
device = load.load("proxy0", config, view({{}}, init_pid={inside.pid}),
                   make_host(pathlib.Path({str(paths.root)!r})))
device.post_start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert ask(socket.AF_INET, ("127.0.0.1", 8080)) == b"HELLO"
    # A new daemon finds it, and takes it away or replaces it.
    device = proxy(listen="tcp:127.0.0.1:8080", connect="tcp:127.0.0.1:80")
    assert ask(socket.AF_INET, ("127.0.0.1", 8080)) == b"HELLO"
    device.post_stop()
    with pytest.raises(ConnectionRefusedError):
        ask(socket.AF_INET, ("127.0.0.1", 8080))


def test_security_uid_is_who_connects(
    proxy: Callable[..., Device], tmp_path: Path, paths: Paths
) -> None:
    tmp_path.chmod(0o755)
    who: list[int] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.sock"))
        (tmp_path / "s.sock").chmod(0o777)
        server.listen()

        def accept() -> None:
            connection, _ = server.accept()
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            who.append(int.from_bytes(credentials[4:8], sys.byteorder))
            connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        proxy(
            listen="tcp:127.0.0.1:8080",
            connect=f"unix:{tmp_path}/s.sock",
            security__uid="4242",
            security__gid="4243",
        )
        socket.create_connection(("127.0.0.1", 8080), 5).close()
        thread.join(5)
    assert who == [4242]


def test_nat(inside: Guest, guest: Callable[[], Guest], serve: Serve, paths: Paths) -> None:
    client = guest()
    with Netlink() as nl:
        for name, subnet in (("in", "10.5.0.1/24"), ("out", "192.0.2.1/24")):
            nl.create_veth(f"{name}0", f"{name}1")
            nl.set_link(nl.link(f"{name}0").index, up=True)
            nl.add_address(nl.link(f"{name}0").index, ipaddress.ip_interface(subnet))
    links.set_sysctl("ipv4/ip_forward", "1")
    for who, name, address, gateway in (
        (inside, "in1", "10.5.0.2/24", "10.5.0.1"),
        (client, "out1", "192.0.2.2/24", "192.0.2.1"),
    ):
        links.move_in(name, who.pid, "eth0")
        who.run("ip", "addr", "add", address, "dev", "eth0")
        who.run("ip", "link", "set", "eth0", "up")
        who.run("ip", "route", "add", "default", "via", gateway)
    serve("tcp", "10.5.0.2:81", inside)
    devices = {
        "eth0": {"type": "nic", "nictype": "bridged", "parent": "b0", "ipv4.address": "10.5.0.2"},
        "web": {
            "type": "proxy",
            "nat": "true",
            "listen": "tcp:192.0.2.1:8080-8081",
            "connect": "tcp:0.0.0.0:80-81",
        },
    }
    device = load.load(
        "web", devices["web"], view(devices, init_pid=inside.pid), make_host(paths.root)
    )
    device.validate()
    device.post_start()
    ask_it = "echo hello | busybox nc -w 2 192.0.2.1 8081"
    assert client.run("busybox", "sh", "-c", ask_it) == "HELLO\n"
    assert len(firewall.tables(paths.tag)) == 1
    device.post_stop()
    assert client.run("busybox", "sh", "-c", ask_it, check=False) != "HELLO\n"
    assert firewall.tables(paths.tag) == []
