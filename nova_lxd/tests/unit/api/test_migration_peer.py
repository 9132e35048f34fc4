# SPDX-License-Identifier: Apache-2.0
"""Two ends of a migration's WebSockets in one process: streams, failures and refusals."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from nova_lxd.lxd.api.migration_peer import Dialled, Progress, Rendezvous, WebSocketPeer
from nova_lxd.lxd.errors import BadRequest, Forbidden
from nova_lxd.lxd.instances.migration.peer import PeerFailed, PeerGone
from nova_lxd.lxd.instances.migration.wire import Control
from nova_lxd.lxd.operations import Cancelled

T = TypeVar("T")


class Pending:
    """A WebSocket that waits to be accepted, as the operations' endpoint makes it."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.socket = web.WebSocketResponse()

    async def accept(self) -> web.WebSocketResponse:
        await self.socket.prepare(self._request)
        return self.socket


def silent(_text: str) -> None:
    return None


@asynccontextmanager
async def two_ends() -> AsyncIterator[tuple[WebSocketPeer, WebSocketPeer]]:
    """The serving and the connecting peer."""
    meeting = Rendezvous()

    async def handle(request: web.Request) -> web.StreamResponse:
        pending = Pending(request)
        await meeting.connect(request.query["secret"], pending)
        return pending.socket

    app = web.Application()
    app.router.add_get("/websocket", handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("/websocket"))
        mine = [
            await session.ws_connect(url, params={"secret": meeting.secrets[name]})
            for name in ("control", "fs")
        ]
        control, fs = await meeting.sockets()
        serving = WebSocketPeer(control, fs, Progress("c1", silent))
        connecting = WebSocketPeer(mine[0], mine[1], Progress("c1", silent))
        try:
            yield serving, connecting
        finally:
            await asyncio.gather(serving.close(), connecting.close())
            meeting.end()


def run(test: Callable[[WebSocketPeer, WebSocketPeer], T]) -> T:
    """Run blocking code with two connected peers on a worker thread."""

    async def main() -> T:
        async with two_ends() as (serving, connecting):
            return await asyncio.wait_for(asyncio.to_thread(test, serving, connecting), 20)

    return asyncio.run(main())


def send_all(peer: WebSocketPeer, parts: list[bytes]) -> None:
    transport = peer.transport(sends=True, receives=False)
    for part in parts:
        with transport.stream() as stream:
            stream.sendall(part)
    peer.finish()


def receive_all(peer: WebSocketPeer, count: int) -> list[bytes]:
    transport = peer.transport(sends=False, receives=True)
    found = []
    for _ in range(count):
        with transport.stream() as stream, stream.makefile("rb") as file:
            found.append(file.read())
    peer.finish()
    return found


def beside(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_streams_keep_apart() -> None:
    parts = [b"x" * 3_000_000, b"", b"end"]

    def test(one: WebSocketPeer, two: WebSocketPeer) -> None:
        sending = beside(lambda: send_all(one, parts))
        assert receive_all(two, len(parts)) == parts
        sending.join()
        two.send(Control(True, "").encode())
        assert Control.decode(one.receive()).success

    run(test)


def test_both_directions_in_one_stream() -> None:
    def answer(peer: WebSocketPeer) -> None:
        transport = peer.transport(sends=True, receives=True)
        for _ in range(2):
            with transport.stream() as stream:
                while data := stream.recv(65536):
                    stream.sendall(data.upper())

    def test(one: WebSocketPeer, two: WebSocketPeer) -> None:
        answering = beside(lambda: answer(two))
        transport = one.transport(sends=True, receives=True)
        for text in (b"first", b"second"):
            with transport.stream() as stream, stream.makefile("rb") as file:
                stream.sendall(text)
                stream.shutdown(1)
                assert file.read() == text.upper()
        one.finish()
        answering.join()

    run(test)


def test_reader_that_leaves_early_does_not_stop_the_stream() -> None:
    def test(one: WebSocketPeer, two: WebSocketPeer) -> None:
        sending = beside(lambda: send_all(one, [b"y" * 2_000_000, b"next"]))
        transport = two.transport(sends=False, receives=True)
        with transport.stream() as stream:
            assert stream.recv(1) == b"y"
        with transport.stream() as stream, stream.makefile("rb") as file:
            assert file.read() == b"next"
        two.finish()
        sending.join()

    run(test)


def test_failure_of_the_other_side_ends_the_transfer() -> None:
    def test(one: WebSocketPeer, two: WebSocketPeer) -> None:
        transport = two.transport(sends=False, receives=True)
        with transport.stream() as stream:
            one.send(Control(False, "disk full").encode())
            assert stream.recv(1) == b""
        with pytest.raises(PeerFailed, match="disk full"):
            two.finish()
        with transport.stream() as stream:
            assert stream.recv(1) == b""
        with pytest.raises(PeerFailed, match="disk full"):
            two.receive()

    run(test)


def test_failure_that_came_before_the_transfer() -> None:
    def test(one: WebSocketPeer, two: WebSocketPeer) -> None:
        one.send(Control(False, "no such pool").encode())
        while two._messages.empty():
            time.sleep(0.005)
        with two.transport(sends=True, receives=False).stream() as stream:
            assert stream.recv(1) == b""
        with pytest.raises(PeerFailed, match="no such pool"):
            two.finish()

    run(test)


def test_other_side_that_vanishes() -> None:
    def test(one: WebSocketPeer, two: WebSocketPeer) -> None:
        with two.transport(sends=False, receives=True).stream() as stream:
            one._call(one.close())
            assert stream.recv(1) == b""
        with pytest.raises(PeerGone):
            two.finish()
        assert isinstance(two.failure, PeerGone)
        with pytest.raises(PeerGone):
            one.send(b"")

    run(test)


def test_cancel_wakes_whoever_waits() -> None:
    def test(one: WebSocketPeer, _two: WebSocketPeer) -> None:
        timer = threading.Timer(0.05, one.abort)
        timer.start()
        with pytest.raises(Cancelled):
            one.receive()

    run(test)


def test_unknown_and_second_secret() -> None:
    async def main() -> None:
        meeting = Rendezvous()
        with pytest.raises(Forbidden, match="unknown secret"):
            await meeting.connect("guess", None)
        meeting.end()
        with pytest.raises(Forbidden, match="already"):
            await meeting.connect(meeting.secrets["fs"], None)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("operation", "known"),
    [
        ("http://h:1/1.0/operations/x", {"control": "a", "fs": "b"}),
        ("https:///1.0/operations/x", {"control": "a", "fs": "b"}),
        ("https://h/1.0/images", {"control": "a", "fs": "b"}),
        ("https://h/1.0/operations/x", {"control": "a"}),
    ],
)
def test_where_to_dial_is_checked(operation: str, known: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        Dialled(operation, known, "")


def test_progress_in_the_words_of_lxd(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("nova_lxd.lxd.api.migration_peer.time.monotonic", lambda: now[0])
    told: list[str] = []
    progress = Progress("c1", told.append)
    progress.add(500)
    assert told == []
    now[0] += 2
    progress.add(3_000_000)
    assert told == ["c1: 3.00MB (1.50MB/s)"]
