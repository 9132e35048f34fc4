# SPDX-License-Identifier: Apache-2.0
"""Who may connect an operation's WebSockets: one client each, also when two come at once."""

from __future__ import annotations

import asyncio

import pytest

from nova_lxd.lxd.api.sockets import Sockets
from nova_lxd.lxd.errors import BadRequest, Forbidden


class Pending:
    """A handshake that takes a moment, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self._failure = failure

    async def accept(self) -> Pending:
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure
        return self


async def test_of_two_at_once_one_is_accepted() -> None:
    sockets = Sockets(("0",))
    first, second = Pending(), Pending()
    results = await asyncio.gather(
        sockets.accept(sockets.secrets["0"], first),
        sockets.accept(sockets.secrets["0"], second),
        return_exceptions=True,
    )
    assert results[0] == ("0", first)
    assert isinstance(results[1], Forbidden)
    assert sockets["0"] is first
    await sockets.wait()


async def test_a_failed_handshake_leaves_the_secret_valid() -> None:
    sockets = Sockets(("0",))
    with pytest.raises(ConnectionResetError):
        await sockets.accept(sockets.secrets["0"], Pending(ConnectionResetError()))
    assert (await sockets.accept(sockets.secrets["0"], Pending()))[0] == "0"


async def test_unknown_secrets_and_late_comers_are_refused() -> None:
    sockets = Sockets(("0",), ("control",), patience=0.01)
    with pytest.raises(Forbidden, match="unknown secret"):
        await sockets.accept("0", Pending())
    with pytest.raises(BadRequest, match="Timed out"):
        await sockets.wait()
    sockets.end()
    await sockets.until_over()
    with pytest.raises(Forbidden):
        await sockets.accept(sockets.secrets["control"], Pending())
