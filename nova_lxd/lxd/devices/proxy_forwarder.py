# SPDX-License-Identifier: Apache-2.0
"""The helper process of one proxy device: :func:`main` of a pid file and a job in JSON.

It listens in the network namespace of one side and connects in that of the other.  It stays in
the host's mount namespace (Python loads modules late, and must not find the instance's); paths
are looked up below the root directory of their side, whatever symbolic links say.  When it is
ready it puts itself into the background, and it ends with the instance's init process or by
SIGTERM, whatever becomes of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nova_lxd.lxd.host import syscalls
from nova_lxd.lxd.network.processes import start_time

# Exit codes when the address cannot be listened on, or the host refused something else; standard
# error then says why: an errno and its text.
LISTEN_FAILED, REFUSED = 3, 4
_CHUNK = 65536
_BACKLOG = 512
_UDP_IDLE = 120.0
_UDP_CLIENTS = 4096
_QUEUED = 64


class Side:
    """The host or the instance: its network namespace and its root directory."""

    def __init__(self, pid: int | str) -> None:
        self._net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter(self) -> None:
        """Be in its network namespace from now on."""
        syscalls.setns(self._net, syscalls.CLONE_NEWNET)

    def open(self, path: str, flags: int = 0) -> int:
        """A handle (O_PATH) of a file, found as from inside."""
        return syscalls.openat2(
            self._root, path, os.O_PATH | flags, resolve=syscalls.RESOLVE_IN_ROOT
        )


@dataclass
class Listener:
    """A listening socket and where its connections go.

    ``file`` is the directory's handle and the name of a socket's file, removed at the end.
    """

    sock: socket.socket
    target: dict[str, Any]
    port: int | None
    side: Side
    file: tuple[int, str] | None = None

    def remove_file(self) -> None:
        if self.file is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file[1], dir_fd=self.file[0])


# -- sockets ----------------------------------------------------------------------------------


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6


def listen(job: dict[str, Any], listening: Side, connecting: Side) -> list[Listener]:
    """Open every listening socket of the job on the side that we are on."""
    address, target = job["listen"], job["connect"]
    ports = target["ports"]
    if address["kind"] == "unix":
        sock, file = _listen_unix(job, listening)
        return [Listener(sock, target, ports[0] if ports else None, connecting, file)]
    listeners = []
    for index, port in enumerate(address["ports"]):
        kind = socket.SOCK_STREAM if address["kind"] == "tcp" else socket.SOCK_DGRAM
        sock = socket.socket(_family(address["host"]), kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            # As LXD: "[::]" also takes what comes over IPv4.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address["host"], port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
        wanted = (ports[index] if len(ports) > 1 else ports[0]) if ports else None
        listeners.append(Listener(sock, target, wanted, connecting))
    return listeners


def _listen_unix(job: dict[str, Any], side: Side) -> tuple[socket.socket, tuple[int, str] | None]:
    host = job["listen"]["host"]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if host.startswith("@"):
        sock.bind("\0" + host[1:])
        sock.listen(_BACKLOG)
        return sock, None
    path = Path(host)
    directory = side.open(str(path.parent), os.O_DIRECTORY)
    name = f"/proc/self/fd/{directory}/{path.name}"
    _remove_stale(directory, path.name)
    # A file system that maps ids takes new files from ids that it maps only.
    syscalls.set_fs_ids(*job["root"])
    syscalls.raise_capabilities(syscalls.CAPS_FILES)
    before = os.umask(0o777 & ~job["mode"])
    try:
        sock.bind(name)
    finally:
        os.umask(before)
        syscalls.set_fs_ids(0, 0)
    file = os.open(path.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    if stat.S_ISSOCK(os.fstat(file).st_mode):  # Else somebody inside has swapped it.
        os.chown(f"/proc/self/fd/{file}", *job["owner"])
    os.close(file)
    sock.listen(_BACKLOG)
    return sock, (directory, path.name)


def _remove_stale(directory: int, name: str) -> None:
    """Remove a socket's file that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.lstat(name, dir_fd=directory).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(f"/proc/self/fd/{directory}/{name}")
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(name, dir_fd=directory)


@contextlib.contextmanager
def _outgoing(listener: Listener) -> Iterator[tuple[socket.socket, Any]]:
    """A non-blocking socket towards the target, and the address to connect it to."""
    target = listener.target
    host = target["host"]
    with contextlib.ExitStack() as stack:
        address: Any = (host, listener.port)
        if target["kind"] != "unix":
            kind = socket.SOCK_STREAM if target["kind"] == "tcp" else socket.SOCK_DGRAM
            sock = stack.enter_context(socket.socket(_family(host), kind))
        else:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            address = "\0" + host[1:]
            if not host.startswith("@"):
                handle = listener.side.open(host)
                stack.callback(os.close, handle)
                address = f"/proc/self/fd/{handle}"
        sock.setblocking(False)
        yield sock, address


def proxy_header(client: socket.socket) -> bytes:
    """The PROXY protocol's line (version 1) about a client."""
    if client.family == socket.AF_UNIX:
        return b"PROXY UNKNOWN\r\n"
    source, own = client.getpeername(), client.getsockname()
    addresses = []
    for text in (source[0], own[0]):
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        addresses.append(mapped or address)
    family = "TCP4" if addresses[0].version == 4 else "TCP6"
    return f"PROXY {family} {addresses[0]} {addresses[1]} {source[1]} {own[1]}\r\n".encode()


# -- forwarding -------------------------------------------------------------------------------


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source's end, and pass the end on."""
    loop = asyncio.get_running_loop()
    stream = source.type == socket.SOCK_STREAM
    while True:
        data = await loop.sock_recv(source, _CHUNK)
        if not data and stream:
            break
        await loop.sock_sendall(sink, data)
    if sink.type == socket.SOCK_STREAM:
        with contextlib.suppress(OSError):  # The sink has closed meanwhile.
            sink.shutdown(socket.SHUT_WR)


async def _serve(client: socket.socket, listener: Listener, header: bool) -> None:
    """One connection of a stream listener, from its acceptance to its end."""
    loop = asyncio.get_running_loop()
    with client:
        client.setblocking(False)
        with _outgoing(listener) as (server, address):
            await loop.sock_connect(server, address)
            if header:
                await loop.sock_sendall(server, proxy_header(client))
            pumps = [
                asyncio.ensure_future(_pump(client, server)),
                asyncio.ensure_future(_pump(server, client)),
            ]
            try:
                if socket.SOCK_DGRAM in (client.type, server.type):
                    # A datagram side has no end: the other one's is the end of both.
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.gather(*pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, (ConnectionError, BrokenPipeError)):
        return  # One side went away, which is how connections end.
    if error is not None:
        sys.stderr.write(f"connection failed: {error}\n")
        sys.stderr.flush()


async def accept_streams(listener: Listener, header: bool) -> None:
    """Serve a stream listener for ever."""
    loop = asyncio.get_running_loop()
    listener.sock.setblocking(False)
    running: set[asyncio.Task[None]] = set()
    while True:
        try:
            client, _ = await loop.sock_accept(listener.sock)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS):
                raise
            await asyncio.sleep(0.1)  # Until a connection ends and gives its descriptors back.
            continue
        task = loop.create_task(_serve(client, listener, header))
        running.add(task)
        task.add_done_callback(running.discard)
        task.add_done_callback(_report)


async def accept_datagrams(listener: Listener) -> None:
    """Serve a datagram listener for ever: every sender gets a socket of its own to the target."""
    loop = asyncio.get_running_loop()
    listener.sock.setblocking(False)
    clients: dict[Any, asyncio.Queue[bytes]] = {}
    running: set[asyncio.Task[None]] = set()
    while True:
        data, sender = await loop.sock_recvfrom(listener.sock, _CHUNK)
        queue = clients.get(sender)
        if queue is None:
            if len(clients) >= _UDP_CLIENTS:
                continue
            queue = clients[sender] = asyncio.Queue(_QUEUED)
            task = loop.create_task(_serve_sender(listener, sender, queue))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(_report)
            task.add_done_callback(functools.partial(_forget, clients, sender))
        if not queue.full():  # A full queue loses datagrams, as networks do.
            queue.put_nowait(data)


def _forget(clients: dict[Any, asyncio.Queue[bytes]], sender: Any, _: object) -> None:
    clients.pop(sender, None)


async def _serve_sender(listener: Listener, sender: Any, queue: asyncio.Queue[bytes]) -> None:
    loop = asyncio.get_running_loop()
    last = loop.time()

    async def answer(server: socket.socket) -> None:
        nonlocal last
        while True:
            data = await loop.sock_recv(server, _CHUNK)
            if not data and server.type == socket.SOCK_STREAM:
                return
            last = loop.time()
            await loop.sock_sendto(listener.sock, data, sender)

    with _outgoing(listener) as (server, address):
        await loop.sock_connect(server, address)
        answers = asyncio.ensure_future(answer(server))
        try:
            while not answers.done() and loop.time() - last < _UDP_IDLE:
                with contextlib.suppress(TimeoutError):
                    data = await asyncio.wait_for(queue.get(), _UDP_IDLE / 4)
                    last = loop.time()
                    await loop.sock_sendall(server, data)
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)


async def forward(listeners: list[Listener], init: int, header: bool) -> None:
    """Serve every listener until SIGTERM or the end of the init process (a pidfd)."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_reader(init, ended.set)
    tasks = [
        loop.create_task(
            accept_streams(one, header)
            if one.sock.type == socket.SOCK_STREAM
            else accept_datagrams(one)
        )
        for one in listeners
    ]
    waiting = loop.create_task(ended.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for one in listeners:
        one.remove_file()
    for task in done - {waiting}:
        await task
    # The process ends now, and the kernel closes every connection.


# -- process ----------------------------------------------------------------------------------


def _background(pid_file: str, log: str) -> None:
    """Go on in a child in the background; the parent leaves once the pid file is written."""
    ready, written = os.pipe()
    child = os.fork()
    if child:
        started = start_time(child)
        draft = Path(f"{pid_file}.new")
        draft.write_text(f"{child} {started}\n")
        draft.replace(pid_file)
        os.write(written, b"1")
        os._exit(0)
    os.close(written)
    os.setsid()
    if os.read(ready, 1) != b"1":
        os._exit(1)  # The parent died: without a pid file nobody would ever find this process.
    os.close(ready)
    null = os.open("/dev/null", os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, null), (1, null), (2, out)):
        os.dup2(source, target)
    os.close(null)
    os.close(out)


def _become(uid: int | None, gid: int | None) -> None:
    if gid is not None:
        os.setgroups([])
        os.setgid(gid)
    if uid is not None:
        if gid is None:
            os.setgroups([])
        os.setuid(uid)


def main(pid_file: str, text: str) -> int:
    """Set up the job, go to the background, forward."""
    job = json.loads(text)
    code = REFUSED
    try:
        home, inside = Side("self"), Side(job["init"])
        init = os.pidfd_open(job["init"])
        listening, connecting = (inside, home) if job["listen_inside"] else (home, inside)
        listening.enter()
        code = LISTEN_FAILED
        listeners = listen(job, listening, connecting)
        code = REFUSED
        home.enter()
        _background(pid_file, job["log"])
    except OSError as exc:
        sys.stderr.write(f"{exc.errno} {exc.strerror}\n")
        return code
    connecting.enter()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _become(*job["become"])
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(forward(listeners, init, job["proxy_protocol"]))
    return 0
