# SPDX-License-Identifier: Apache-2.0
"""The other server of a migration, as the code below the API sees it."""

from __future__ import annotations

import contextlib
from typing import Protocol

from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.instances.migration.wire import Control, Header, WireError
from nova_lxd.lxd.storage.drivers.interface import Transport


class PeerGone(LXDError):
    """The connection to the other server broke."""


class PeerFailed(LXDError):
    """The other server gave up; the message is its own."""


class Peer(Protocol):
    """The connection to the other server; its methods block the calling worker thread."""

    @property
    def failure(self) -> LXDError | None:
        """What broke the transfer, if anything did: the cause of what the driver saw then."""

    def send(self, message: bytes) -> None:
        """Send a message of the protocol.  :raises PeerGone: nobody is there."""

    def receive(self) -> bytes:
        """The next message of the protocol.  :raises PeerGone: there comes none any more."""

    def transport(self, *, sends: bool, receives: bool) -> Transport:
        """Begin to move data, in one or both directions; the peer's failure is watched for."""

    def finish(self) -> None:
        """Wait until all data have been moved.  :raises LXDError: they could not be."""


def receive_header(peer: Peer) -> Header:
    """The peer's offer or choice.

    :raises PeerFailed: it refuses instead.  :raises WireError: it says something else.
    """
    data = peer.receive()
    try:
        return Header.decode(data)
    except WireError:
        with contextlib.suppress(WireError):
            refusal = Control.decode(data)
            if not refusal.success:
                raise PeerFailed(refusal.message or "The other server gave up") from None
        raise


def send_failure(peer: Peer, exc: BaseException) -> None:
    """Tell the peer why it is over, if it is still there."""
    with contextlib.suppress(PeerGone):
        peer.send(Control(False, str(exc)).encode())
