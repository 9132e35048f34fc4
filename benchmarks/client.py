# SPDX-License-Identifier: Apache-2.0
"""A client so thin that what is measured is the daemon."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp


class BenchmarkError(RuntimeError):
    """The daemon refused a step of a measurement."""


class Connection:
    """One keep-alive HTTP/1.1 connection on a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._buffer = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def _more(self) -> None:
        got = self._socket.recv(1 << 20)
        if not got:
            raise BenchmarkError("the daemon closed the connection")
        self._buffer += got

    def _take(self, count: int) -> bytes:
        if len(self._buffer) < count:
            parts, have = [self._buffer], len(self._buffer)
            while have < count:
                got = self._socket.recv(1 << 20)
                if not got:
                    raise BenchmarkError("the daemon closed the connection")
                parts.append(got)
                have += len(got)
            self._buffer = b"".join(parts)
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _sep, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def request(
        self, method: str, path: str, body: bytes = b"", headers: str = ""
    ) -> tuple[int, bytes]:
        """Status and body of one request."""
        head = f"{method} {path} HTTP/1.1\r\nHost: lxd\r\n{headers}"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        raw, _sep, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status = int(raw[9:12])
        fields = raw.lower()
        if b"\r\ntransfer-encoding: chunked" in fields:
            parts = []
            while size := int(self._line(), 16):
                parts.append(self._take(size))
                self._line()
            self._line()
            return status, b"".join(parts)
        found = fields.find(b"\r\ncontent-length:")
        length = int(fields[found + 17 :].split(b"\r\n")[0]) if found >= 0 else 0
        return status, self._take(length)

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The envelope of a request that must succeed."""
        payload = b"" if body is None else json.dumps(body).encode()
        status, raw = self.request(method, path, payload, "Content-Type: application/json\r\n")
        answer = json.loads(raw)
        if status >= 400:
            raise BenchmarkError(f"{method} {path}: {answer.get('error')}")
        return answer

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        """Run a background operation to its successful end."""
        answer = self.json(method, path, body)
        done = self.json("GET", f"{answer['operation']}/wait")["metadata"]
        if done["status"] != "Success":
            raise BenchmarkError(f"{method} {path}: {done['err']}")
        return done


async def _first_byte(path: Path, name: str) -> float:
    connector = aiohttp.UnixConnector(str(path))
    body = {
        "command": ["/bin/echo", "x"],
        "wait-for-websocket": True,
        "interactive": True,
        "width": 80,
        "height": 25,
    }
    async with aiohttp.ClientSession("http://lxd", connector=connector) as session:
        began = time.perf_counter()
        async with session.post(f"/1.0/instances/{name}/exec", json=body) as answer:
            envelope = await answer.json()
        operation, fds = envelope["operation"], envelope["metadata"]["metadata"]["fds"]
        control = await session.ws_connect(f"{operation}/websocket?secret={fds['control']}")
        stream = await session.ws_connect(f"{operation}/websocket?secret={fds['0']}")
        while not (message := await stream.receive()).data:
            if message.type is aiohttp.WSMsgType.CLOSED:
                raise BenchmarkError("the session ended before its first byte")
        took = time.perf_counter() - began
        await stream.close()
        await control.close()
        async with session.get(f"{operation}/wait?timeout=5"):
            return took


def interactive_first_byte(path: Path, name: str) -> float:
    """Seconds from the exec request to the first byte from the terminal."""
    return asyncio.run(_first_byte(path, name))
