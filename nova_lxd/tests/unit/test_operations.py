# SPDX-License-Identifier: Apache-2.0
"""Operations that several threads end at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.operations import Operation, Operations

CLIENTS = 16


@pytest.fixture
def operations() -> Iterator[Operations]:
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as executor:
        yield Operations(loop, executor, Events(loop))
    loop.close()


def test_a_token_is_used_up_once(operations: Operations) -> None:
    for _ in range(50):
        token = operations.token("", "token", {"secret": "x"})
        together = Barrier(CLIENTS)

        def use(_number: int, token: Operation = token, together: Barrier = together) -> bool:
            together.wait()
            try:
                operations.cancel(token)
            except BadRequest:
                return False
            return True

        with ThreadPoolExecutor(CLIENTS) as clients:
            assert sum(clients.map(use, range(CLIENTS))) == 1


def test_waiting_in_vain_leaves_nothing(operations: Operations) -> None:
    token = operations.token("", "token", {})

    async def ask() -> None:
        for _ in range(20):
            assert not await operations.wait(token, 0.001)

    operations._loop.run_until_complete(ask())
    assert not any(operations._waiters.values())
