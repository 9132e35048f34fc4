# SPDX-License-Identifier: Apache-2.0
"""A client so thin that the daemon is measured: raw HTTP and WebSocket on a unix socket."""

from __future__ import annotations

import base64
import json
import os
import secrets
import selectors
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_WEBSOCKET_CLOSE = 8
JSON = "Content-Type: application/json\r\n"


class BenchmarkError(RuntimeError):
    """The daemon refused a step of a measurement."""


class Wire:
    """Buffered bytes of one connection."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self._buffer = b""
        self.count = 0

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> bytes:
        got = self.socket.recv(_CHUNK)
        if not got:
            raise BenchmarkError("the daemon closed the connection")
        self.count += len(got)
        return got

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        parts, have = [self._buffer], len(self._buffer)
        while have < count:
            parts.append(self._receive())
            have += len(parts[-1])
        data = b"".join(parts)
        self._buffer = data[count:]
        return data[:count]

    def until(self, mark: bytes) -> bytes:
        """The bytes before ``mark``, which is taken too."""
        while mark not in self._buffer:
            self._buffer += self._receive()
        found, _mark, self._buffer = self._buffer.partition(mark)
        return found


class Connection:
    """One keep-alive HTTP/1.1 connection."""

    def __init__(self, path: Path) -> None:
        self._wire = Wire(path)
        self.length = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._wire.close()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: str = ""
    ) -> tuple[int, bytes]:
        """Status and body of one request; ``length`` is then that of the whole answer."""
        self._wire.count = 0
        status, answer = self._exchange(method, path, body, headers)
        self.length = self._wire.count
        return status, answer

    def _exchange(self, method: str, path: str, body: bytes, headers: str) -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: lxd\r\n{headers}"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self._wire.socket.sendall(head.encode() + body)
        raw = self._wire.until(b"\r\n\r\n")
        status = int(raw[9:12])
        fields = raw.lower() + b"\r\n"
        if b"\r\ntransfer-encoding: chunked\r\n" in fields:
            parts = []
            while size := int(self._wire.until(b"\r\n"), 16):
                parts.append(self._wire.take(size))
                self._wire.until(b"\r\n")
            self._wire.until(b"\r\n")
            return status, b"".join(parts)
        _before, found, rest = fields.partition(b"\r\ncontent-length:")
        return status, self._wire.take(int(rest.split(b"\r\n")[0]) if found else 0)

    def answer(self, method: str, path: str, body: bytes, headers: str) -> Any:
        """The envelope of a request that must succeed."""
        status, raw = self.request(method, path, body, headers)
        answer = json.loads(raw)
        if status >= 400:
            raise BenchmarkError(f"{method} {path}: {answer.get('error')}")
        return answer

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The envelope of a request with a JSON body that must succeed."""
        return self.answer(method, path, b"" if body is None else json.dumps(body).encode(), JSON)

    def get(self, path: str) -> Any:
        """What GET shows."""
        return self.json("GET", path)["metadata"]

    def finish(self, envelope: Any) -> Any:
        """Wait for a background operation, which must succeed."""
        done = self.get(f"{envelope['operation']}/wait")
        if done["status"] != "Success":
            raise BenchmarkError(f"{done['description']}: {done['err']}")
        return done

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        """Run a background operation to its successful end."""
        return self.finish(self.json(method, path, body))


class WebSocket:
    """A client's WebSocket that reads whole messages and answers nothing."""

    def __init__(self, path: Path, target: str) -> None:
        self._wire = Wire(path)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        head = (
            f"GET {target} HTTP/1.1\r\nHost: lxd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        self._wire.socket.sendall(head.encode())
        answer = self._wire.until(b"\r\n\r\n")
        if b" 101 " not in answer.split(b"\r\n")[0]:
            self._wire.close()
            raise BenchmarkError(f"WebSocket {target.split('?')[0]}: {answer[:60]!r}")

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._wire.close()

    def receive(self) -> bytes:
        """The payload of the next data frame; BenchmarkError when the server closes."""
        while True:
            first, second = self._wire.take(2)
            length = second & 127
            if length == 126:
                length = int.from_bytes(self._wire.take(2), "big")
            elif length == 127:
                length = int.from_bytes(self._wire.take(8), "big")
            payload = self._wire.take(length)
            if first & 15 == _WEBSOCKET_CLOSE:
                raise BenchmarkError("the daemon closed the WebSocket")
            if first & 15 < _WEBSOCKET_CLOSE:
                return payload


def multipart(parts: dict[str, Path]) -> tuple[bytes, str]:
    """A form of files as image uploads have it: (body, header)."""
    boundary = secrets.token_hex(16)
    chunks = []
    for name, path in parts.items():
        chunks.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '
            f'filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
        )
        chunks += [path.read_bytes(), b"\r\n"]
    chunks.append(f"--{boundary}--\r\n".encode())
    return b"".join(chunks), f"Content-Type: multipart/form-data; boundary={boundary}\r\n"


def listener_pid(path: Path) -> int:
    """The pid of the process that listens on a unix socket."""
    wire = Wire(path)
    try:
        raw = wire.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    finally:
        wire.close()
    return int.from_bytes(raw[:4], byteorder="little")


def requests_per_second(path: Path, target: str, connections: int, seconds: float) -> float:
    """How many GETs are answered, each connection asking again as soon as it has its answer.

    One thread that only counts bytes: the answers are alike, so the first tells their length.
    """
    request = f"GET {target} HTTP/1.1\r\nHost: lxd\r\n\r\n".encode()
    with Connection(path) as first:
        _status, _body = first.request("GET", target)
        length = first.length
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        missing = {}
        for _ in range(connections):
            wire = Wire(path)
            stack.callback(wire.close)
            selector.register(wire.socket, selectors.EVENT_READ)
            wire.socket.sendall(request)
            missing[wire.socket] = length
        done = 0
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            for key, _events in selector.select(1.0):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                missing[sock] -= len(sock.recv(_CHUNK))
                if missing[sock] == 0:
                    done += 1
                    missing[sock] = length
                    sock.sendall(request)
                elif missing[sock] < 0:
                    raise BenchmarkError(f"GET {target} gave answers of different lengths")
    return done / took


def random_bytes(count: int) -> bytes:
    """Bytes that nothing can compress."""
    return os.urandom(count)
