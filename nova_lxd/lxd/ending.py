# SPDX-License-Identifier: Apache-2.0
"""The end of the daemon: running operations get time to finish (``core.shutdown_timeout``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.operations import Operation, Operations
from nova_lxd.lxd.serverconfig import ServerConfig

LOG = logging.getLogger(__name__)
_TASKS_GRACE = 10.0
_CANCEL_GRACE = 15.0


class Ending:
    """What the daemon still waits for once it was told to end."""

    def __init__(self, operations: Operations, config: ServerConfig) -> None:
        self._operations = operations
        self._config = config
        self._hurry = asyncio.Event()
        self.begun = False
        """Was the daemon told to end?"""

    def hurry(self) -> None:
        """Wait for clients' operations no longer."""
        self._hurry.set()

    async def wait_for_operations(self) -> None:
        """Wait until none runs, at most ``core.shutdown_timeout`` minutes.

        Those that can be cancelled are, as LXD does: they may wait for another server for ever.
        """
        self.begun = True
        try:
            async with asyncio.timeout(60 * int(self._config.get("core.shutdown_timeout"))):
                while not self._hurry.is_set() and (running := self._operations.running()):
                    LOG.info("Waiting for operations to end: %s", running[0].description)
                    self._cancel_what_can_be()
                    await self._end_of(running[0])
        except TimeoutError:
            count = len(self._operations.running())
            LOG.warning("Ending in spite of %d running operations: time is over", count)

    async def _end_of(self, op: Operation) -> None:
        waits = [
            asyncio.ensure_future(self._operations.wait(op, None)),
            asyncio.ensure_future(self._hurry.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _cancel_what_can_be(self) -> None:
        for op in self._operations.running():
            if op.may_cancel and not op.cancel_requested.is_set():
                with contextlib.suppress(BadRequest):  # it has ended just now
                    self._operations.cancel(op)

    async def drain(self) -> None:
        """Give tasks a last moment in any case; the rest is reconciled at the next start."""
        self.begun = True
        self._cancel_what_can_be()
        running = self._operations.running()
        loop = asyncio.get_running_loop()
        for grace, chosen in (
            (_TASKS_GRACE, [op for op in running if op.kind == "task"]),
            (_CANCEL_GRACE, [op for op in running if op.may_cancel]),
        ):
            deadline = loop.time() + grace
            for op in chosen:
                await self._operations.wait(op, max(0.0, deadline - loop.time()))
