# SPDX-License-Identifier: Apache-2.0
"""How many connections a guest may hold to /dev/lxd/sock, and all guests together.

Every connection costs the daemon a descriptor and some memory, and guests decide how many they
open and how long they keep them.  One too many is closed before anything is read from it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Callable

from nova_lxd.lxd.api.auth import peer_pid

LOG = logging.getLogger(__name__)
#: Connections of one guest at a time.
PER_GUEST = 64
# The share of the daemon's descriptors that all guests together may hold.
_SHARE = 4


class Door:
    """Counts connections by guest; :meth:`protocol` is what the listening socket serves.

    Who has connected is looked up once: later the number of a process that has ended may be
    another guest's.

    :param find: tells the guest of a process by its pid, None when it is in no guest.
    """

    def __init__(self, find: Callable[[int], str | None]) -> None:
        self._find = find
        self._inner: Callable[[], asyncio.BaseProtocol] | None = None
        self._held: Counter[str] = Counter()
        self._guests: dict[asyncio.BaseTransport, str] = {}
        self._most = 0

    def open(self, inner: Callable[[], asyncio.BaseProtocol]) -> None:
        """Let guests in from now on; ``inner`` makes the protocol that serves a connection."""
        self._inner = inner
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = most // _SHARE

    def protocol(self) -> asyncio.Protocol:
        """The protocol of one new connection."""
        assert self._inner is not None
        return _Connection(self, self._inner())

    def guest(self, transport: asyncio.BaseTransport) -> str | None:
        """The guest at the other end of a connection that was let in; None: it has ended."""
        return self._guests.get(transport)

    def enter(self, transport: asyncio.BaseTransport) -> bool:
        """Count a connection for its guest; False: it may not come in."""
        pid, _uid, _gid = peer_pid(transport.get_extra_info("socket"))
        guest = self._find(pid)
        if guest is None:
            return False
        if self._held[guest] >= PER_GUEST or len(self._guests) >= self._most:
            LOG.debug("A connection of guest %s was closed: it holds %d", guest, self._held[guest])
            return False
        self._held[guest] += 1
        self._guests[transport] = guest
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """A counted connection has ended."""
        guest = self._guests.pop(transport)
        self._held[guest] -= 1
        if not self._held[guest]:
            del self._held[guest]


class _Connection(asyncio.Protocol):
    """One connection: handed on to the inner protocol once it was let in."""

    def __init__(self, door: Door, inner: asyncio.BaseProtocol) -> None:
        self._door = door
        assert isinstance(inner, asyncio.Protocol)
        self._inner = inner
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._door.enter(transport):
            self._transport = transport
            self._inner.connection_made(transport)
        else:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            try:
                self._inner.connection_lost(exc)
            finally:
                self._door.leave(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
