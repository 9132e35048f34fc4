# SPDX-License-Identifier: Apache-2.0
"""The WebSockets of one operation: who may connect which, and until when they stay."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from typing import Any

from aiohttp import web

from nova_lxd.lxd.errors import BadRequest, Forbidden

_CONNECT_SECONDS = 5.0


class Sockets:
    """WebSockets by name, each connected once by its secret.

    :param names: those that must be there before the work begins.
    :param optional: those that may come later or never.
    :param patience: seconds that :meth:`wait` waits.
    """

    def __init__(
        self,
        names: Collection[str],
        optional: Collection[str] = (),
        patience: float = _CONNECT_SECONDS,
    ) -> None:
        self.secrets = {name: secrets.token_hex(32) for name in (*names, *optional)}
        self._patience = patience
        self._needed = frozenset(names)
        self._claimed: set[str] = set()
        self._connected: dict[str, web.WebSocketResponse] = {}
        self._complete = asyncio.Event()
        self._over = asyncio.Event()

    def __getitem__(self, name: str) -> web.WebSocketResponse:
        return self._connected[name]

    @property
    def over(self) -> bool:
        """Has :meth:`close` been called?"""
        return self._over.is_set()

    async def accept(self, secret: str, pending: Any) -> tuple[str, web.WebSocketResponse]:
        """Take the WebSocket that the secret is for: its name and itself.

        :raises Forbidden: the secret is for none, or for one that is connected already.
        """
        given = secret.encode()
        names = [n for n, s in self.secrets.items() if secrets.compare_digest(s.encode(), given)]
        if not names:
            raise Forbidden("Connecting to the operation failed: unknown secret")
        name = names[0]
        if name in self._claimed or self.over:
            raise Forbidden(f"Connecting stream {name} failed: it was connected already")
        # The handshake takes a while, in which nobody else may come with the same secret.
        self._claimed.add(name)
        try:
            socket = self._connected[name] = await pending.accept()
        except BaseException:
            self._claimed.discard(name)
            raise
        if self._needed <= self._connected.keys():
            self._complete.set()
        return name, socket

    async def wait(self) -> None:
        """Wait until all that are needed have been connected.

        :raises BadRequest: they were not in time.
        """
        try:
            await asyncio.wait_for(self._complete.wait(), self._patience)
        except TimeoutError as exc:
            raise BadRequest("Timed out waiting for websockets to connect") from exc

    async def until_over(self) -> None:
        """What a connection's handler waits for: the end of the work."""
        await self._over.wait()

    def end(self) -> None:
        """The work has ended: let the handlers return."""
        self._over.set()

    async def close(self) -> None:
        """The work has ended: close what is open and let the handlers return."""
        self.end()
        # At once: a client that does not answer is waited for, and it may have connected them all.
        closing = [socket.close() for socket in self._connected.values()]
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                raise result
