# SPDX-License-Identifier: Apache-2.0
"""rsync's "remote shell": couples standard input and output with an inherited socket.

A program of its own (``python -I -S relay.py FD HOST COMMAND…``) that imports nothing of the
package, because rsync starts it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

_CHUNK = 256 * 1024


def _to_peer(peer: socket.socket) -> None:
    while chunk := os.read(0, _CHUNK):
        peer.sendall(chunk)
    with contextlib.suppress(OSError):  # the peer has gone: rsync learns that from its own end
        peer.shutdown(socket.SHUT_WR)


def main() -> None:
    peer = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_to_peer, args=(peer,), daemon=True).start()
    with contextlib.suppress(ConnectionError, BrokenPipeError):
        while chunk := peer.recv(_CHUNK):
            view = memoryview(chunk)
            while view:
                view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
