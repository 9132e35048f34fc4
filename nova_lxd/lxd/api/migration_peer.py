# SPDX-License-Identifier: Apache-2.0
"""The two WebSockets of a migration: how they come about, and what is pumped through them.

``control`` carries the messages of LXD's protocol; ``fs`` a row of streams, each ended by an empty
text message.  Data pass through the event loop in chunks, at the pace of the slower side.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import socket
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import aiohttp
from aiohttp import WSMsgType, web

from nova_lxd.lxd import trust
from nova_lxd.lxd.api.sockets import Sockets
from nova_lxd.lxd.api.streams import Descriptor
from nova_lxd.lxd.errors import BadRequest, LXDError
from nova_lxd.lxd.instances.migration.peer import PeerFailed, PeerGone
from nova_lxd.lxd.instances.migration.wire import Control, WireError
from nova_lxd.lxd.operations import Cancelled
from nova_lxd.lxd.schema.sizes import format_size

LOG = logging.getLogger(__name__)

T = TypeVar("T")
Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse
_NAMES = ("control", "fs")
# A client may make the other side try several of our addresses, one after the other.
_CONNECT_SECONDS = 10.0
_MEETING_SECONDS = 60.0
_PROGRESS_SECONDS = 1.0
#: The longest message that a server we connected to may send, in bytes.
_MAX_MESSAGE = 16 * 1024 * 1024
# A host that is gone without a word is noticed after about a minute.  No TCP_USER_TIMEOUT: a
# receiver that copies a snapshot may take nothing for much longer.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class Rendezvous:
    """The serving side: an operation's secrets, until the other side has connected both."""

    def __init__(self) -> None:
        self._sockets = Sockets(_NAMES, patience=_MEETING_SECONDS)
        self.secrets = self._sockets.secrets

    async def connect(self, secret: str, pending: Any) -> None:
        """Take one WebSocket; returns when the migration is over."""
        await self._sockets.accept(secret, pending)
        await self._sockets.until_over()

    async def sockets(self) -> tuple[Socket, Socket]:
        """Both WebSockets, control first.

        :raises BadRequest: they were not connected in time.
        """
        try:
            await self._sockets.wait()
        except BadRequest as exc:
            raise BadRequest(
                "Migrating failed: timed out waiting for the other side to connect"
            ) from exc
        return self._sockets["control"], self._sockets["fs"]

    def end(self) -> None:
        """Let the handlers of the WebSockets return."""
        self._sockets.end()


class Dialled:
    """The connecting side: WebSockets to an operation of the other server.

    :param operation: its URL, ``https://HOST:PORT/1.0/operations/ID``.
    :param certificate: the certificate (PEM) that the server has to show; empty: one that the
        host's authorities vouch for.
    :raises BadRequest: URL, secrets or certificate are no such thing.
    """

    def __init__(self, operation: str, known: Mapping[str, str], certificate: str) -> None:
        for name in _NAMES:
            if not known.get(name):
                raise BadRequest(f"Missing {name} secret")
        url = urllib.parse.urlsplit(operation)
        if url.scheme != "https" or not url.hostname or "/operations/" not in url.path:
            raise BadRequest(f"Migrating failed: {operation[:128]!r} is no URL of an operation")
        self._host = url.netloc
        self._base = f"wss://{url.netloc}{url.path}/websocket"
        self._known = {name: known[name] for name in _NAMES}
        self._pin: aiohttp.Fingerprint | bool = True
        if certificate:
            digest = hashlib.sha256(trust.decode_certificate(certificate)).digest()
            self._pin = aiohttp.Fingerprint(digest)
        self._session: aiohttp.ClientSession | None = None

    async def sockets(self) -> tuple[Socket, Socket]:
        """Connect both, control first.  :raises PeerGone: the other server cannot be reached."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=True)
        try:
            control = await self._connect(self._session, "control")
            return control, await self._connect(self._session, "fs")
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise PeerGone(f"Connecting to {self._host} for a migration failed: {exc}") from exc

    async def _connect(
        self, session: aiohttp.ClientSession, name: str
    ) -> aiohttp.ClientWebSocketResponse:
        query = urllib.parse.urlencode({"secret": self._known[name]})
        return await session.ws_connect(
            f"{self._base}?{query}", ssl=self._pin, max_msg_size=_MAX_MESSAGE
        )

    async def close(self) -> None:
        """Release the connections."""
        if self._session is not None:
            await self._session.close()


class Progress:
    """Counts bytes and tells them at most every second, in LXD's words."""

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self._name = name
        self._tell = tell
        self._done = 0
        self._began = self._told = time.monotonic()

    def add(self, count: int) -> None:
        """Take note of ``count`` more bytes."""
        self._done += count
        now = time.monotonic()
        if now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            speed = format_size(int(self._done / (now - self._began)))
            self._tell(f"{self._name}: {format_size(self._done)} ({speed}/s)")


class WebSocketPeer:
    """The other server behind its two WebSockets: what workers see of it is blocking.

    Made on the event loop.
    """

    def __init__(self, control: Socket, fs: Socket, progress: Progress) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._fs = fs
        self._progress = progress
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._streams: asyncio.Queue[socket.socket | None] = asyncio.Queue()
        self._failure: LXDError | None = None
        self._pump: asyncio.Task[None] | None = None
        self._confirmed = False
        for each in (control, fs):
            _keep_alive(each)
        self._reader = asyncio.create_task(self._read_control())

    @property
    def failure(self) -> LXDError | None:
        """See :class:`~nova_lxd.lxd.instances.migration.peer.Peer`."""
        return self._failure

    # -- on the worker's thread -------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def send(self, message: bytes) -> None:
        """Send a message of the protocol."""
        try:
            self._call(self._control.send_bytes(message))
        except (ConnectionError, RuntimeError) as exc:
            raise PeerGone(f"Telling the other server failed: {exc}") from exc

    def receive(self) -> bytes:
        """The next message of the protocol."""
        message = self._messages.get()
        if message is None:
            self._messages.put(None)
            raise self._failure or PeerGone("The other server closed the connection")
        return message

    def transport(self, *, sends: bool, receives: bool) -> WebSocketPeer:
        """Begin to move data."""
        self._call(self._begin(sends, receives))
        return self

    def stream(self) -> socket.socket:
        """The next stream; its other end is pumped when its turn comes."""
        mine, pumped = socket.socketpair()
        self._loop.call_soon_threadsafe(self._take, pumped)
        return mine

    def finish(self) -> None:
        """Wait until all data have been moved."""
        self._call(self._finished())

    def abort(self) -> None:
        """Break the migration because a client cancelled it; from any thread."""
        self._loop.call_soon_threadsafe(
            self._break, Cancelled("Migrating failed: the operation was cancelled")
        )

    # -- on the event loop ------------------------------------------------------------------------

    def _break(self, cause: LXDError) -> None:
        """Give up: whatever waits for the peer is woken, and the cause is kept."""
        if self._failure is not None:
            return
        self._failure = cause
        self._messages.put(None)
        if self._pump is not None:
            self._pump.cancel()
        while not self._streams.empty():
            pending = self._streams.get_nowait()
            if pending is not None:
                pending.close()

    async def _read_control(self) -> None:
        with contextlib.suppress(ConnectionError):
            async for message in self._control:
                if message.type is WSMsgType.BINARY:
                    self._arrived(message.data)
        if not self._confirmed:
            self._break(PeerGone("The other server closed the connection of the migration"))
        self._messages.put(None)

    def _arrived(self, data: bytes) -> None:
        if self._pump is not None:
            # Headers have been exchanged: it is the end of it, good or bad.
            try:
                said = Control.decode(data)
            except WireError as exc:
                self._break(exc)
                return
            if not said.success:
                self._break(PeerFailed(said.message or "The other server gave up"))
                return
            self._confirmed = True
        self._messages.put(data)

    async def _begin(self, sends: bool, receives: bool) -> None:
        self._pump = asyncio.create_task(self._run(sends, receives))
        if self._failure is not None:
            self._pump.cancel()
            return
        # What came right after the headers is the peer's verdict already.
        early = []
        while not self._messages.empty():
            early.append(self._messages.get_nowait())
        for message in early:
            if message is not None:
                self._arrived(message)

    async def _finished(self) -> None:
        assert self._pump is not None
        self._streams.put_nowait(None)
        await asyncio.wait({self._pump})
        if self._failure is not None:
            raise self._failure

    def _take(self, stream: socket.socket) -> None:
        if self._failure is not None:
            stream.close()
        else:
            self._streams.put_nowait(stream)

    async def _run(self, sends: bool, receives: bool) -> None:
        """Pump the streams, one after the other."""
        try:
            while (stream := await self._streams.get()) is not None:
                await self._move(stream, sends, receives)
        except (ConnectionError, PeerGone) as exc:
            self._break(PeerGone(f"Moving data between the servers failed: {exc}"))

    async def _move(self, stream: socket.socket, sends: bool, receives: bool) -> None:
        local = Descriptor(stream.fileno())
        try:
            async with asyncio.TaskGroup() as both:
                if sends:
                    both.create_task(self._outwards(local))
                if receives:
                    both.create_task(self._inwards(stream, local))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            stream.detach()
            local.close()

    async def _outwards(self, local: Descriptor) -> None:
        while data := await _read(local):
            await self._fs.send_bytes(data)
            self._progress.add(len(data))
        await self._fs.send_str("")

    async def _inwards(self, stream: socket.socket, local: Descriptor) -> None:
        wanted = True
        while True:
            message = await self._fs.receive()
            if message.type is WSMsgType.BINARY:
                # What nobody reads any more is passed over: the reader has said why it left.
                wanted = wanted and await _write(local, message.data)
                self._progress.add(len(message.data))
            elif message.type is WSMsgType.TEXT:
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_WR)
                return
            else:
                raise PeerGone("the other server closed the connection")

    async def close(self) -> None:
        """End both connections in an orderly way."""
        if self._pump is not None:
            self._pump.cancel()
        for each in (self._fs, self._control):
            with contextlib.suppress(ConnectionError, TimeoutError):
                await each.close()
        await asyncio.wait({self._reader})


async def _read(local: Descriptor) -> bytes:
    """The next bytes, none at the end."""
    try:
        while (data := local.read_now()) is None:
            await local.readable()
    except ConnectionResetError:  # closed with data unread: nothing more comes either way
        return b""
    return data


async def _write(local: Descriptor, data: bytes) -> bool:
    try:
        return await local.write(data)
    except ConnectionResetError:
        return False


def _keep_alive(each: Socket) -> None:
    connection = each.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
