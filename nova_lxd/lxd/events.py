# SPDX-License-Identifier: Apache-2.0
"""Events: published from any thread, delivered in order to every listener (LXD: /1.0/events).

A listener that reads too slowly is cut off with a reason rather than silently losing events.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from nova_lxd.lxd.jsontext import encode

MAX_BACKLOG = 10_000


def guest_channel(instance_id: int) -> str:
    """The event type under which one instance's own events are queued; no API client names it."""
    return f"guest {instance_id}"


class Listener:
    """One subscriber; :meth:`next` gives encoded events until :attr:`lost` is set."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        types: Collection[str],
        project: str | None,
        server_wide: bool,
    ) -> None:
        self.types = frozenset(types)
        self.project = project
        self.server_wide = server_wide
        self.lost = False
        self._loop = loop
        self._backlog: deque[bytes] = deque()
        self._wakeup = asyncio.Event()

    def wants(self, event_type: str, project: str) -> bool:
        if event_type not in self.types:
            return False
        return self.server_wide if not project else self.project in (None, project)

    def push(self, payload: bytes) -> None:
        """Queue one event; on the loop's thread only."""
        if len(self._backlog) >= MAX_BACKLOG:
            self.lost = True
        else:
            self._backlog.append(payload)
        self._wakeup.set()

    async def next(self) -> bytes | None:
        """The next event, or None when the backlog overflowed and events were lost."""
        while not self._backlog:
            if self.lost:
                return None
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._backlog.popleft()


class Events:
    """The hub between publishers in worker threads and listeners on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: list[Listener] = []
        self._pending: deque[tuple[str, str, bytes]] = deque()
        self._lock = threading.Lock()
        self._scheduled = False

    def listen(
        self, types: Collection[str], project: str | None, *, server_wide: bool = True
    ) -> Listener:
        """Subscribe to ``types`` of one project, or of all when ``project`` is None.

        :param server_wide: with the events that are of no project.
        """
        listener = Listener(self._loop, types, project, server_wide)
        self._listeners.append(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    def wanted(self, event_type: str) -> bool:
        """Whether anybody listens to this type now (saves encoding of debug logs)."""
        return any(event_type in listener.types for listener in self._listeners)

    def publish(self, event_type: str, project: str, metadata: Mapping[str, Any]) -> None:
        """Send one event; callable from any thread, order of calls is order of delivery."""
        if not self._listeners:
            return
        event: dict[str, Any] = {
            "type": event_type,
            "timestamp": datetime.now(UTC),
            "metadata": metadata,
            "location": "none",
        }
        if project:
            event["project"] = project
        self._enqueue(event_type, project, encode(event))

    def publish_to_guest(
        self, instance_id: int, event_type: str, metadata: Mapping[str, Any]
    ) -> None:
        """Send an event that only one instance sees, over /dev/lxd (types config and device)."""
        channel = guest_channel(instance_id)
        if not self.wanted(channel):
            return
        event = {"type": event_type, "timestamp": datetime.now(UTC), "metadata": metadata}
        self._enqueue(channel, "", encode(event))

    def _enqueue(self, event_type: str, project: str, payload: bytes) -> None:
        with self._lock:
            self._pending.append((event_type, project, payload))
            if self._scheduled:
                return
            self._scheduled = True
        self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            batch = list(self._pending)
            self._pending.clear()
            self._scheduled = False
        for event_type, project, payload in batch:
            for listener in self._listeners:
                if listener.wants(event_type, project):
                    listener.push(payload)

    def lifecycle(
        self,
        action: str,
        source: str,
        project: str,
        *,
        context: Mapping[str, Any] | None = None,
        requestor: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish a lifecycle event.

        :param action: LXD's action name, for example ``instance-started``.
        :param source: the object's URL, for example ``/1.0/instances/c1``.
        """
        metadata: dict[str, Any] = {"action": action, "source": source}
        if context:
            metadata["context"] = dict(context)
        if requestor:
            metadata["requestor"] = dict(requestor)
        self.publish("lifecycle", project, metadata)
