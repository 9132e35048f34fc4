# SPDX-License-Identifier: Apache-2.0
"""Named locks: one action at a time on one object, and a refusal that names the action."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from nova_lxd.lxd.errors import Conflict


class ActionLocks:
    """At most one action per key; a second one waits up to its patience, then is refused."""

    def __init__(self) -> None:
        self._held: dict[Hashable, tuple[str, int]] = {}
        self._changed = threading.Condition()

    def holder(self, key: Hashable) -> str | None:
        """The action that holds ``key`` now."""
        with self._changed:
            held = self._held.get(key)
            return held[0] if held else None

    @contextmanager
    def hold(self, key: Hashable, action: str, what: str, patience: float = 0.0) -> Iterator[None]:
        """Run the block as ``action`` on ``key``; the same thread may nest.

        :param what: the object in words, for the refusal.
        :param patience: seconds to wait for another action to end.
        :raises Conflict: another action still holds the object.
        """
        me = threading.get_ident()
        with self._changed:
            free = self._changed.wait_for(
                lambda: key not in self._held or self._held[key][1] == me, patience
            )
            if not free:
                raise Conflict(
                    f'Starting action "{action}" on {what} failed: it is busy running a '
                    f'"{self._held[key][0]}" action; try again when that has ended'
                )
            outer = self._held.get(key)
            self._held[key] = (action, me)
        try:
            yield
        finally:
            with self._changed:
                if outer is None:
                    del self._held[key]
                else:
                    self._held[key] = outer
                self._changed.notify_all()


class KeyedLocks:
    """A mutex per key, made on demand: serialises work such as importing one image."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[threading.RLock, int]] = {}
        self._guard = threading.Lock()

    @contextmanager
    def hold(self, key: Hashable) -> Iterator[None]:
        """Wait for ``key`` and hold it for the block."""
        with self._guard:
            lock, users = self._locks.get(key, (threading.RLock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)
