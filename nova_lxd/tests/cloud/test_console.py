# SPDX-License-Identifier: Apache-2.0
"""The serial console: a token, a WebSocket, and a guest at its other end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import websocket

from nova_lxd.tests.cloud.world import Guest, World


def read_until(stream: websocket.WebSocket, wanted: str, seconds: float) -> str:
    """What the console says until ``wanted`` is in it; AssertionError after ``seconds``."""
    text = ""
    deadline = time.monotonic() + seconds
    while wanted not in text:
        assert time.monotonic() < deadline, f"no {wanted!r} on the console: {text!r}"
        stream.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            data = stream.recv()
        except websocket.WebSocketTimeoutException:
            continue
        text += data.decode(errors="replace") if isinstance(data, bytes) else data
    return text


@contextlib.contextmanager
def serial_console(world: World, server: Any) -> Iterator[websocket.WebSocket]:
    """A server's serial console, as Nova's proxy offers it."""
    console = world.api.compute.create_server_remote_console(
        server, protocol="serial", type="serial")
    stream = websocket.create_connection(
        console.url, subprotocols=["binary"], timeout=20, http_no_proxy=["127.0.0.1"])
    try:
        yield stream
    finally:
        stream.close()


def test_round_trip(guest: Guest) -> None:
    world, server, _ = guest
    with serial_console(world, server) as stream:
        stream.send_binary(b"\r")
        read_until(stream, "login:", 30)
        stream.send_binary(b"nobody-here\r")
        read_until(stream, "Password:", 30)


def test_wrong_token_is_refused(guest: Guest) -> None:
    world, server, _ = guest
    console = world.api.compute.create_server_remote_console(
        server, protocol="serial", type="serial")
    forged = console.url[:-4] + ("0000" if console.url[-4:] != "0000" else "1111")
    stream = None
    try:
        stream = websocket.create_connection(forged, subprotocols=["binary"], timeout=20,
                                             http_no_proxy=["127.0.0.1"])
        # The proxy takes the handshake first and then closes without a byte.
        assert stream.recv() in (b"", "")
    except (websocket.WebSocketException, ConnectionError):
        pass  # refused in the handshake: as good
    finally:
        if stream is not None:
            stream.close()
