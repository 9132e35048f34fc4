# SPDX-License-Identifier: Apache-2.0
"""Descriptors that are pumped to WebSockets leave nothing on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from nova_lxd.lxd.api import streams


class Socket:
    """What the pump asks of a WebSocket."""

    closed = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)


def _watched(fd: int) -> bool:
    """Whether the loop watched ``fd``, which it then does no more."""
    return asyncio.get_running_loop().remove_reader(fd)


async def _pumping() -> tuple[asyncio.Task[None], streams.Descriptor, int, Socket]:
    reader, writer = os.pipe()
    descriptor, socket = streams.Descriptor(reader), Socket()
    pump: Any = streams.to_socket(descriptor, socket, asyncio.Event())  # type: ignore[arg-type]
    task = asyncio.ensure_future(pump)
    os.write(writer, b"first")
    while not socket.sent:
        await asyncio.sleep(0.001)
    return task, descriptor, writer, socket


async def test_cancelled_pump_is_forgotten_by_the_loop() -> None:
    task, descriptor, writer, _socket = await _pumping()
    fd = descriptor.fd
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert not _watched(fd)
    descriptor.close()
    os.close(writer)


async def test_closing_a_descriptor_ends_its_watch() -> None:
    task, descriptor, writer, _socket = await _pumping()
    fd = descriptor.fd
    descriptor.close()
    assert not _watched(fd)
    task.cancel()
    os.close(writer)


async def test_pump_sends_all_and_ends_with_the_stream() -> None:
    task, descriptor, writer, socket = await _pumping()
    os.write(writer, b"last")
    os.close(writer)
    await asyncio.wait_for(task, 5)
    assert b"".join(socket.sent) == b"firstlast"
    descriptor.close()
