# SPDX-License-Identifier: Apache-2.0
"""Another way to a daemon's unix socket, by TCP or by a second unix socket, that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

_CHUNK = 65536


class Proxy:
    """A context manager; ``url`` is where to ask when it listens on the loopback.

    :param at: path of the unix socket to listen on; without it, it is TCP on the loopback.
    """

    def __init__(self, target: Path, at: Path | None = None) -> None:
        self._target = str(target)
        self.url = ""
        if at is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(at))
            self._listener.listen()
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """End every connection that stands, at both ends; how many there were."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return len(ends) // 2

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(self._target)
            except OSError:  # the daemon is gone: so is the connection
                client.close()
                server.close()
                continue
            threading.Thread(target=self._join, args=(client, server), daemon=True).start()

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what comes from either end until both have said all."""
        with client, server:
            with self._lock:
                self._ends |= {client, server}
            answers = threading.Thread(target=_pump, args=(server, client), daemon=True)
            answers.start()
            _pump(client, server)
            answers.join()
            with self._lock:
                self._ends -= {client, server}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
