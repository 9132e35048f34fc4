# SPDX-License-Identifier: Apache-2.0
"""Between WebSockets and descriptors: what exec and console sessions are pumped with.

LXD ends each stream with an empty text message; data go as binary messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

_CHUNK = 65536
#: What reading a control message raises that a client has got wrong.
UNUSABLE = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Descriptor:
    """A non-blocking descriptor on the event loop; owns and closes it."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()

    @property
    def fd(self) -> int:
        return self._fd

    async def _ready(self, *, write: bool) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        add = self._loop.add_writer if write else self._loop.add_reader
        remove = self._loop.remove_writer if write else self._loop.remove_reader
        add(self._fd, _settle, waiter)
        try:
            await waiter
        finally:
            if self._fd >= 0:
                remove(self._fd)

    def read_now(self) -> bytes | None:
        """What is there now: bytes, b"" at the end, None when there is nothing yet."""
        try:
            return os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno == errno.EIO:  # a terminal whose other end is closed
                return b""
            raise

    async def readable(self) -> None:
        """Wait until :meth:`read_now` has something to tell."""
        await self._ready(write=False)

    async def write(self, data: bytes) -> bool:
        """Write all of it; False when nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._ready(write=True)
            except OSError as exc:
                if exc.errno in (errno.EPIPE, errno.EIO):
                    return False
                raise
        return True

    def close(self) -> None:
        """Close it; whoever still waits for it waits in vain, but the loop has forgotten it."""
        if self._fd >= 0:
            # A watch that outlives its descriptor fires for ever once the number is used again.
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


async def readable(fd: int) -> None:
    """Wait until a descriptor is readable; it stays the caller's."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _settle, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(fd)


async def _first_of(source: Descriptor, stopping: asyncio.Future[Any]) -> None:
    """Wait until there is something to read, or for ``stopping``."""
    reading = asyncio.ensure_future(source.readable())
    either: set[asyncio.Future[Any]] = {reading, stopping}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        reading.cancel()


async def to_socket(
    source: Descriptor, socket: web.WebSocketResponse, stop: asyncio.Event
) -> None:
    """Send what the descriptor gives, until its end or, after ``stop``, until it is empty."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while True:
            data = source.read_now()
            if data is None:
                if stop.is_set():
                    break
                await _first_of(source, stopping)
                continue
            if not data or socket.closed:
                break
            await socket.send_bytes(data)
    except ConnectionError:
        return
    finally:
        stopping.cancel()


async def send_end(socket: web.WebSocketResponse) -> None:
    """Tell the client that a stream has ended."""
    if not socket.closed:
        with contextlib.suppress(ConnectionError):
            await socket.send_str("")


async def from_socket(
    socket: web.WebSocketResponse, target: Descriptor, *, close_at_end: bool
) -> None:
    """Write what the client sends to the descriptor, until its end-of-stream message."""
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            if message.data and not await target.write(message.data):
                break
        elif message.type is WSMsgType.TEXT:
            break
    if close_at_end:
        target.close()


async def drain(socket: web.WebSocketResponse, on_text: Callable[[str], None]) -> bool:
    """Read a control socket to its end; True when the client closed it properly."""
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            on_text(message.data)
        elif message.type is WSMsgType.BINARY:
            on_text(message.data.decode("utf-8", "replace"))
    return socket.close_code in (1000, 1001, 1005)
