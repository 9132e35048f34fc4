# SPDX-License-Identifier: Apache-2.0
"""Operations: LXD's background jobs (``/1.0/operations``).

A task's work is a plain function that runs on a worker thread; a websocket operation's work is a
coroutine on the event loop; a token operation has no work and ends when it is used or cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from nova_lxd.lxd.errors import (
    BadRequest,
    InternalError,
    LXDError,
    NotFound,
    refused_by_host,
)
from nova_lxd.lxd.events import Events

LOG = logging.getLogger(__name__)

CREATED, RUNNING, CANCELLING = 100, 103, 104
PENDING, SUCCESS, FAILURE, CANCELLED = 105, 200, 400, 401
STATUS_TEXT = {
    CREATED: "Operation created",
    RUNNING: "Running",
    CANCELLING: "Cancelling",
    PENDING: "Pending",
    SUCCESS: "Success",
    FAILURE: "Failure",
    CANCELLED: "Cancelled",
}
FINAL = frozenset((SUCCESS, FAILURE, CANCELLED))
_KEEP_SECONDS = 5.0

T = TypeVar("T")
OperationClass = Literal["task", "websocket", "token"]
Work = Callable[["Operation"], Mapping[str, Any] | None]
AsyncWork = Callable[["Operation"], Awaitable[Mapping[str, Any] | None]]
Connect = Callable[[str, Any], Awaitable[Any]]


class Cancelled(LXDError):
    """Raised inside an operation's work when the client cancelled it."""

    status = 400


class Operation:
    """One background job; its fields are what ``/1.0/operations/ID`` shows."""

    def __init__(
        self,
        owner: Operations,
        kind: OperationClass,
        project: str,
        description: str,
        resources: Mapping[str, list[str]] | None,
        metadata: Mapping[str, Any] | None,
        on_cancel: Callable[[], None] | None,
        requestor: Mapping[str, Any] | None,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.kind = kind
        self.project = project
        self.description = description
        self.resources = {k: list(v) for k, v in (resources or {}).items()}
        self.metadata: dict[str, Any] | None = dict(metadata) if metadata else None
        self.status = PENDING
        self.error = ""
        self.created_at = self.updated_at = datetime.now(UTC)
        self.requestor = requestor
        self.failure: LXDError | None = None
        self.connect: Connect | None = None
        self.cancel_requested = threading.Event()
        self._on_cancel = on_cancel
        self._owner = owner
        self._done = threading.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"/1.0/operations/{self.id}"

    @property
    def may_cancel(self) -> bool:
        return self.kind == "token" or self._on_cancel is not None

    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        """Say how the work can be stopped now; None: it cannot from here on."""
        self._on_cancel = callback

    def check_cancelled(self) -> None:
        """Raise :class:`Cancelled` when the client asked for it."""
        if self.cancel_requested.is_set():
            raise Cancelled(f"{self.description} was cancelled")

    def update(self, metadata: Mapping[str, Any]) -> None:
        """Merge progress or results into the metadata and tell the listeners."""
        with self._lock:
            self.metadata = {**(self.metadata or {}), **metadata}
            self.updated_at = datetime.now(UTC)
        self._owner.publish(self)

    def to_api(self) -> dict[str, Any]:
        """LXD's Operation object."""
        return {
            "id": self.id,
            "class": self.kind,
            "description": self.description,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "status": STATUS_TEXT[self.status],
            "status_code": self.status,
            "resources": self.resources or None,
            "metadata": self.metadata,
            "may_cancel": self.may_cancel,
            "err": self.error,
            "location": "none",
        }

    def set_status(self, status: int, error: str = "") -> bool:
        """Go on to another status; False when the operation has ended before."""
        with self._lock:
            if self.status in FINAL:
                return False
            self.status = status
            self.error = error
            self.updated_at = datetime.now(UTC)
        self._owner.publish(self)
        if status in FINAL:
            self._done.set()
            self._owner.finished(self)
        return True

    def wait_sync(self, timeout: float | None = None) -> bool:
        """Block this worker thread until the operation ended; False when time ran out."""
        return self._done.wait(timeout)


class Operations:
    """The table of operations of this daemon; finished ones stay visible for some seconds."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, executor: Executor, events: Events
    ) -> None:
        self._loop = loop
        self._executor = executor
        self._events = events
        self._table: dict[str, Operation] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def task(
        self,
        project: str,
        description: str,
        work: Work,
        *,
        resources: Mapping[str, list[str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_cancel: Callable[[], None] | None = None,
        requestor: Mapping[str, Any] | None = None,
    ) -> Operation:
        """Start ``work`` on a worker thread; what it returns is merged into the metadata."""
        op = Operation(
            self, "task", project, description, resources, metadata, on_cancel, requestor
        )
        self._begin(op)
        self._executor.submit(self._run, op, work)
        return op

    def websocket(
        self,
        project: str,
        description: str,
        work: AsyncWork,
        connect: Connect,
        *,
        resources: Mapping[str, list[str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_cancel: Callable[[], None] | None = None,
        requestor: Mapping[str, Any] | None = None,
    ) -> Operation:
        """Start a coroutine that talks over WebSockets handed to ``connect(secret, ws)``.

        Call it on the event loop's thread.
        """
        op = Operation(
            self, "websocket", project, description, resources, metadata, on_cancel, requestor
        )
        op.connect = connect
        self._begin(op)
        task = self._loop.create_task(self._run_async(op, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return op

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Run a blocking part of a websocket operation's work where tasks' work is run."""
        return await self._loop.run_in_executor(self._executor, work)

    def token(
        self,
        project: str,
        description: str,
        metadata: Mapping[str, Any],
        resources: Mapping[str, list[str]] | None = None,
    ) -> Operation:
        """A token that clients may redeem until it is cancelled."""
        op = Operation(self, "token", project, description, resources, metadata, None, None)
        self._begin(op)
        return op

    def _begin(self, op: Operation) -> None:
        self._table[op.id] = op
        self.publish(op)
        op.set_status(RUNNING)

    def _run(self, op: Operation, work: Work) -> None:
        try:
            result = work(op)
        except Exception as exc:
            self._fail(op, exc)
        else:
            self._succeed(op, result)

    async def _run_async(self, op: Operation, work: AsyncWork) -> None:
        try:
            result = await work(op)
        except Exception as exc:
            self._fail(op, exc)
        else:
            self._succeed(op, result)

    def _succeed(self, op: Operation, result: Mapping[str, Any] | None) -> None:
        if result:
            op.metadata = {**(op.metadata or {}), **result}
        op.set_status(SUCCESS)

    def _fail(self, op: Operation, exc: Exception) -> None:
        if isinstance(exc, Cancelled) or op.cancel_requested.is_set():
            op.set_status(CANCELLED, str(exc))
            return
        if isinstance(exc, LXDError):
            op.failure = exc
            LOG.info("%s failed: %s", op.description, exc)
            op.set_status(FAILURE, str(exc))
            return
        LOG.exception("%s failed unexpectedly", op.description)
        if isinstance(exc, OSError):
            op.failure = refused_by_host(op.description, exc)
        else:
            op.failure = InternalError(f"{op.description} failed: {exc}")
        op.set_status(FAILURE, str(op.failure))

    def publish(self, op: Operation) -> None:
        self._events.publish("operation", op.project, op.to_api())

    def finished(self, op: Operation) -> None:
        """Wake waiters and forget the operation after a while; called by the operation."""
        self._loop.call_soon_threadsafe(self._settle, op)

    def _settle(self, op: Operation) -> None:
        for waiter in self._waiters.pop(op.id, []):
            if not waiter.done():
                waiter.set_result(None)
        self._loop.call_later(_KEEP_SECONDS, self._table.pop, op.id, None)

    def get(self, op_id: str) -> Operation:
        """:raises NotFound: no such operation, or it was forgotten."""
        op = self._table.get(op_id)
        if op is None:
            raise NotFound(f"Operation {op_id!r} not found")
        return op

    def visible(self, project: str | None = None) -> list[Operation]:
        """The operations of one project (or all); those of no project are in every list."""
        return [
            op
            for op in list(self._table.values())
            if project is None or not op.project or op.project == project
        ]

    async def wait(self, op: Operation, timeout: float | None) -> bool:
        """Wait on the loop until the operation has ended; False when time ran out."""
        if op.status in FINAL:
            return True
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.setdefault(op.id, []).append(waiter)
        if op.status in FINAL:
            return True
        try:
            await asyncio.wait_for(waiter, timeout)
        except TimeoutError:
            return False
        finally:  # who asks again and again must not fill the memory
            if op.id in self._waiters and waiter in self._waiters[op.id]:
                self._waiters[op.id].remove(waiter)
        return True

    def cancel(self, op: Operation) -> None:
        """:raises BadRequest: the operation has ended or cannot be cancelled."""
        if op.status in FINAL:
            raise BadRequest(f"Cancelling operation {op.id} failed: it has ended already")
        if not op.may_cancel:
            raise BadRequest(f"Cancelling operation {op.id} failed: it cannot be cancelled")
        op.cancel_requested.set()
        if op.kind == "token":
            if not op.set_status(CANCELLED):  # somebody else was faster, and has used it up
                raise BadRequest(f"Cancelling operation {op.id} failed: it has ended already")
            return
        op.set_status(CANCELLING)
        callback = op._on_cancel
        if callback is not None:
            callback()

    def running(self) -> list[Operation]:
        """Tasks and websocket operations that have not ended."""
        return [
            op
            for op in list(self._table.values())
            if op.kind != "token" and op.status not in FINAL
        ]
