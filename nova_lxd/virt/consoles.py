# SPDX-License-Identifier: Apache-2.0
"""Consoles and commands: the log, the interactive serial console, a program in the guest.

nova-serialproxy speaks plain TCP to the compute host, LXD speaks WebSocket: a proxy per instance
listens on a port of ``[serial_console]port_range`` and joins the two.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any

import nova.conf
from nova.console import serial
from nova.console import type as console_type
from oslo_log import log as logging

from nova_lxd.virt import exception
from nova_lxd.virt.client import LXDClient, WebSocket

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

MAX_LOG = 100 * 1024  # bytes of the console log that Nova shows at most
PIECE = 64 * 1024
NOT_FOUND = 127  # the exit code that stands for a missing program


class _Pipe(WebSocket):
    """A WebSocket whose messages go to ``receive`` as bytes."""

    receive: Any = staticmethod(lambda data: None)

    def received_message(self, message: Any) -> None:
        self.receive(message.data)

    def pump(self) -> None:
        """Hand on messages until the other side closes."""
        while self.once():
            pass


class Consoles:
    """Consoles of one host's instances."""

    def __init__(self, client: LXDClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._proxies: dict[str, SerialProxy] = {}

    def log(self, name: str) -> bytes:
        """Return the end of the console's log; empty when the instance never ran.

        :raises LXDNotFound: there is no such instance
        """
        self._client.get("instances", name)
        kept = b""
        try:
            with self._client.stream("instances", name, "console") as pieces:
                for piece in pieces:
                    kept = (kept + piece)[-MAX_LOG:]
        except exception.LXDError as e:
            # 404: it never ran. 500: that is LXD's answer for an empty buffer, too, and a log
            # that cannot be read is no reason to fail the request.
            if e.status not in (404, 500):
                raise
            LOG.info("The console log of %s cannot be read: %s", name, e)
        return kept

    def serial(self, name: str) -> console_type.ConsoleSerial:
        """Return where the instance's serial console answers, listening from now on.

        :raises LXDNotFound: there is no such instance
        """
        self._client.get("instances", name)
        with self._lock:
            proxy = self._proxies.get(name)
            if proxy is None:
                proxy = self._proxies[name] = SerialProxy(self._client, name)
        return console_type.ConsoleSerial(host=proxy.host, port=proxy.port)

    def close(self, name: str) -> None:
        """Stop the instance's serial console; one that was never asked for is closed already."""
        with self._lock:
            proxy = self._proxies.pop(name, None)
        if proxy:
            proxy.close()

    def close_all(self) -> None:
        """Stop every serial console."""
        for name in list(self._proxies):
            self.close(name)

    def run(self, name: str, command: list[str], stdin: bytes) -> int:
        """Run a program in the guest with some input; return its exit code.

        127 is the code of a program that the guest does not have.
        """
        started = self._client.post(
            "instances",
            name,
            "exec",
            wait=False,
            json={"command": command, "interactive": False, "wait-for-websocket": True},
        )
        secrets = started["metadata"]["fds"]
        with contextlib.ExitStack() as stack:
            pipes = {fd: self._pipe(stack, started["id"], secrets[fd]) for fd in "012"}
            pipes["0"].send(stdin, binary=True)
            pipes["0"].send(b"", binary=False)  # the end of the input
            try:
                finished = self._client.wait(started["id"], f"run {command[0]} in {name}")
            except exception.LXDError as e:
                # LXD fails the operation where no program ran at all; the code tells why
                if e.metadata.get("return") != NOT_FOUND:
                    raise
                return NOT_FOUND
        return int(finished["metadata"]["return"])

    def _pipe(self, stack: contextlib.ExitStack, operation: str, secret: str) -> _Pipe:
        pipe = self._client.websocket(_Pipe, "operations", operation, "websocket", secret=secret)
        pipe.connect()
        stack.callback(pipe.close_connection)
        return pipe


def _hang_up(end: socket.socket) -> None:
    """End both directions of a socket and wake who waits for it; the other end may be gone."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class SerialProxy:
    """A TCP port that is an instance's console; one visitor at a time, the latest wins."""

    def __init__(self, client: LXDClient, name: str) -> None:
        self._client = client
        self._name = name
        self.host = CONF.serial_console.proxyclient_address
        self.port = serial.acquire_port(self.host)
        self._visitor: socket.socket | None = None
        try:
            self._listener = socket.create_server((self.host, self.port))
        except OSError:
            serial.release_port(self.host, self.port)
            raise
        threading.Thread(target=self._accept, name=f"serial-{name}", daemon=True).start()

    def close(self) -> None:
        """Stop listening and send the visitor away."""
        _hang_up(self._listener)
        self._listener.close()
        self._dismiss()
        serial.release_port(self.host, self.port)

    def _dismiss(self) -> None:
        visitor, self._visitor = self._visitor, None
        if visitor:
            _hang_up(visitor)

    def _accept(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._dismiss()
            self._visitor = visitor
            threading.Thread(target=self._serve, args=(visitor,), daemon=True).start()

    def _serve(self, visitor: socket.socket) -> None:
        with visitor:
            try:
                self._join(visitor)
            except (exception.LXDError, exception.LXDUnavailable) as e:
                LOG.warning("The console of %s cannot be opened: %s", self._name, e)
                with contextlib.suppress(OSError):
                    visitor.sendall(f"\r\n{e}\r\n".encode())
            except OSError as e:
                LOG.debug("The console of %s was left: %s", self._name, e)

    def _join(self, visitor: socket.socket) -> None:
        """Join visitor and console until one of them leaves."""
        started = self._client.post(
            "instances",
            self._name,
            "console",
            wait=False,
            json={"type": "console", "width": 80, "height": 24},
        )
        secrets = started["metadata"]["fds"]
        with contextlib.ExitStack() as stack:
            control = self._connect(stack, started["id"], secrets["control"])
            console = self._connect(stack, started["id"], secrets["0"])
            console.receive = visitor.sendall
            outward = threading.Thread(target=self._outward, args=(console, visitor), daemon=True)
            outward.start()
            # A socket that somebody reads is shut down, never closed: its number may be taken
            # again at once, and the reader would read what is another's.
            stack.callback(outward.join)
            stack.callback(_hang_up, visitor)
            stack.callback(_hang_up, console.sock)
            while data := visitor.recv(PIECE):
                console.send(data, binary=True)
            control.send(json.dumps({"command": "signal", "signal": 1}))

    def _outward(self, console: _Pipe, visitor: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the visitor left: so does the console
            console.pump()
        _hang_up(visitor)

    def _connect(self, stack: contextlib.ExitStack, operation: str, secret: str) -> _Pipe:
        pipe = self._client.websocket(_Pipe, "operations", operation, "websocket", secret=secret)
        pipe.connect()
        pipe.sock.settimeout(None)
        stack.callback(pipe.close_connection)
        return pipe
