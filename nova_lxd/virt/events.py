# SPDX-License-Identifier: Apache-2.0
"""LXD's event stream: the state cache of the host's instances and Nova's lifecycle events.

An event only says *which* instance changed; its state is then read from LXD. So an event that
arrives late or twice can never leave a wrong state behind. When the stream breaks, the cache is
not used until a new stream stands and everything has been read again in one request.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib import parse

from nova.compute import power_state
from nova.virt import event as virtevent
from oslo_log import log as logging

from nova_lxd.virt import exception
from nova_lxd.virt.client import LXDClient, WebSocket

LOG = logging.getLogger(__name__)

UUID_KEY = "user.nova.uuid"

POWER_STATES = {
    101: power_state.RUNNING,  # Started
    102: power_state.SHUTDOWN,  # Stopped
    103: power_state.RUNNING,
    104: power_state.RUNNING,  # Cancelling
    105: power_state.NOSTATE,  # Pending
    106: power_state.SHUTDOWN,  # Starting
    107: power_state.RUNNING,  # Stopping
    108: power_state.RUNNING,  # Aborting
    109: power_state.RUNNING,  # Freezing
    110: power_state.PAUSED,
    111: power_state.PAUSED,  # Thawed, on the way to Running
    112: power_state.CRASHED,  # Error
    113: power_state.SHUTDOWN,  # Ready
}

TRANSITIONS = {
    "instance-started": virtevent.EVENT_LIFECYCLE_STARTED,
    "instance-restarted": virtevent.EVENT_LIFECYCLE_STARTED,
    "instance-stopped": virtevent.EVENT_LIFECYCLE_STOPPED,
    "instance-shutdown": virtevent.EVENT_LIFECYCLE_STOPPED,
    "instance-paused": virtevent.EVENT_LIFECYCLE_PAUSED,
    "instance-resumed": virtevent.EVENT_LIFECYCLE_RESUMED,
}


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of one instance: Nova's uuid of it and its power state."""

    uuid: str | None
    state: int


def known(record: dict[str, Any]) -> Known:
    """Read an LXD instance record."""
    return Known(
        uuid=record["config"].get(UUID_KEY),
        state=POWER_STATES.get(record["status_code"], power_state.NOSTATE),
    )


class _Stream(WebSocket):
    """A WebSocket that hands each message, decoded, to ``receive``."""

    receive: Callable[[dict[str, Any]], None]

    def received_message(self, message: Any) -> None:
        self.receive(json.loads(message.data))


class EventWatcher:
    """Follow one project's lifecycle events in a thread of its own.

    :param emit: called with a Nova LifecycleEvent
    :param connection: called with (up, reason) when the stream comes and goes
    :param restarted: called with the LXD name of an instance whose guest restarted
    """

    def __init__(
        self,
        client: LXDClient,
        retry: float,
        emit: Callable[[virtevent.LifecycleEvent], None],
        connection: Callable[[bool, str], None],
        restarted: Callable[[str], None],
    ) -> None:
        self._client = client
        self._retry = retry
        self._emit = emit
        self._connection = connection
        self._restarted = restarted
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._current = False
        self._stop = threading.Event()
        self._first = threading.Event()
        self._stream: _Stream | None = None
        self._thread = threading.Thread(target=self._run, name="lxd-events", daemon=True)

    def start(self) -> None:
        """Start the thread and wait for the first answer of LXD, good or bad."""
        self._thread.start()
        self._first.wait(60)

    def stop(self) -> None:
        """End the thread and close the stream."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.close_connection()
        if self._thread.is_alive():
            self._thread.join(10)

    def lookup(self, name: str) -> Known:
        """Return what is known of an instance, from the cache while the stream stands.

        What is not in the cache then is not there: a server of Nova's without a container, such
        as one whose build failed, costs no request either.

        :raises LXDNotFound:
        """
        with self._lock:
            current, cached = self._current, self._known.get(name)
        if not current:
            return self.refresh(name)
        if cached is None:
            raise exception.LXDNotFound(404, action=f"find {name}", reason="it is not there")
        return cached

    def all(self) -> dict[str, Known]:
        """Return every instance of the project by its LXD name; one request at most."""
        with self._lock:
            if self._current:
                return dict(self._known)
        return self._read_all()

    def refresh(self, name: str) -> Known:
        """Read one instance anew; done after every change that the driver makes.

        :raises LXDNotFound:
        """
        try:
            fresh = known(self._client.get("instances", name))
        except exception.LXDNotFound:
            self.forget(name)
            raise
        with self._lock:
            if self._current:  # else what was known before the break is needed to tell changes
                self._known[name] = fresh
        return fresh

    def forget(self, name: str) -> None:
        """Take a name out of the cache that no instance has any more."""
        with self._lock:
            self._known.pop(name, None)

    # -- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
                reason = "LXD closed the event stream"
            except Exception as e:  # whatever it was: say so, and try again
                LOG.debug("event stream", exc_info=not self._stop.is_set())
                reason = f"LXD's event stream broke: {e}"
            with self._lock:
                self._current = False
            self._first.set()
            if self._stop.is_set():
                return  # it was stop() that ended the stream
            LOG.warning("%s; trying again in %s s", reason, self._retry)
            self._tell_connection(False, reason)
            self._stop.wait(self._retry)

    def _follow(self) -> None:
        """Connect, read everything, then handle events until the stream ends."""
        stream = self._client.websocket(_Stream, "events", type="lifecycle")
        stream.receive = self._handle
        stream.connect()
        stream.sock.settimeout(None)
        self._stream = stream
        try:
            before = self._known
            fresh = self._read_all()
            with self._lock:
                self._known = fresh
                self._current = True
            self._first.set()
            self._tell_connection(True, "")
            self._emit_missed(before, fresh)
            while not self._stop.is_set() and stream.once():
                pass
        finally:
            self._stream = None
            stream.close_connection()

    def _read_all(self) -> dict[str, Known]:
        records = self._client.get("instances", recursion="1")
        return {record["name"]: known(record) for record in records}

    def _emit_missed(self, before: dict[str, Known], now: dict[str, Known]) -> None:
        """Emit the transitions that happened while no stream stood."""
        transitions = {
            power_state.RUNNING: virtevent.EVENT_LIFECYCLE_STARTED,
            power_state.SHUTDOWN: virtevent.EVENT_LIFECYCLE_STOPPED,
            power_state.PAUSED: virtevent.EVENT_LIFECYCLE_PAUSED,
        }
        for name, old in before.items():
            new = now.get(name)
            if new and new.uuid and new.state != old.state and new.state in transitions:
                self._emit(virtevent.LifecycleEvent(new.uuid, transitions[new.state]))

    def _handle(self, message: dict[str, Any]) -> None:
        if message.get("project", self._client.project) != self._client.project:
            return
        action = message["metadata"]["action"]
        source = parse.urlparse(message["metadata"]["source"]).path
        if not action.startswith("instance-") or not source.startswith("/1.0/instances/"):
            return
        name = source.split("/")[3]
        if action == "instance-renamed":
            self.forget((message["metadata"].get("context") or {}).get("old_name", name))
        try:
            fresh = self.refresh(name)
        except exception.LXDNotFound:
            return
        if action == "instance-restarted":
            self._guarded(self._restarted, name)
        if fresh.uuid and action in TRANSITIONS:
            self._guarded(self._emit, virtevent.LifecycleEvent(fresh.uuid, TRANSITIONS[action]))

    def _tell_connection(self, up: bool, reason: str) -> None:
        self._guarded(self._connection, up, reason)

    def _guarded(self, call: Callable[..., None], *args: Any) -> None:
        """Run a listener; its failure is its own and must not end the stream."""
        try:
            call(*args)
        except Exception:
            LOG.exception("A listener of LXD's events failed")
