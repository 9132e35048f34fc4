# SPDX-License-Identifier: Apache-2.0
"""The state cache: fed by events, never by their wording, unused while no stream stands."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from nova.compute import power_state
from nova.virt import event as virtevent

from nova_lxd.virt import events, exception


def record(name: str, code: int, uuid: str | None = "u-1") -> dict[str, Any]:
    config = {events.UUID_KEY: uuid} if uuid else {}
    return {"name": name, "status_code": code, "config": config}


class Server:
    """Answers as LXD does."""

    project = "nova-x"

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, ...]] = []

    def get(self, *path: str, **params: str) -> Any:
        self.requests.append(path)
        if path == ("instances",):
            return list(self.records.values())
        if path[1] not in self.records:
            raise exception.LXDNotFound(404, action="get", reason="not found")
        return self.records[path[1]]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def watcher(server: Server) -> events.EventWatcher:
    watcher = events.EventWatcher(
        server, 1, mock.Mock(name="emit"), mock.Mock(name="up"), mock.Mock(name="restarted")
    )
    watcher._current = True
    return watcher


def lifecycle(action: str, name: str, project: str = "nova-x") -> dict[str, Any]:
    source = f"/1.0/instances/{name}?project={project}"
    return {"type": "lifecycle", "project": project,
            "metadata": {"action": action, "source": source}}  # fmt: skip


def test_lookup_asks_nothing(watcher: events.EventWatcher, server: Server) -> None:
    server.records["c"] = record("c", 103)
    watcher.refresh("c")
    server.requests.clear()
    for _ in range(3):
        assert watcher.lookup("c").state == power_state.RUNNING
        with pytest.raises(exception.LXDNotFound):
            watcher.lookup("never-built")
    assert server.requests == []


def test_renamed_is_known_by_its_new_name_only(
    watcher: events.EventWatcher, server: Server
) -> None:
    server.records["old"] = record("old", 102)
    watcher.refresh("old")
    server.records = {"new": record("new", 102)}
    message = lifecycle("instance-renamed", "new")
    message["metadata"]["context"] = {"old_name": "old"}
    watcher._handle(message)
    assert set(watcher.all()) == {"new"}


def test_event_says_look_not_what(watcher: events.EventWatcher, server: Server) -> None:
    """A late 'started' of an instance that stopped since leaves 'stopped'."""
    server.records["c"] = record("c", 102)
    watcher._handle(lifecycle("instance-started", "c"))
    assert watcher.lookup("c").state == power_state.SHUTDOWN


@pytest.mark.parametrize(
    "action,transition",
    [
        ("instance-shutdown", virtevent.EVENT_LIFECYCLE_STOPPED),
        ("instance-stopped", virtevent.EVENT_LIFECYCLE_STOPPED),
        ("instance-started", virtevent.EVENT_LIFECYCLE_STARTED),
        ("instance-paused", virtevent.EVENT_LIFECYCLE_PAUSED),
        ("instance-resumed", virtevent.EVENT_LIFECYCLE_RESUMED),
    ],
)
def test_nova_is_told(
    watcher: events.EventWatcher, server: Server, action: str, transition: int
) -> None:
    server.records["c"] = record("c", 103)
    watcher._handle(lifecycle(action, "c"))
    (event,) = watcher._emit.call_args[0]
    assert (event.get_instance_uuid(), event.get_transition()) == ("u-1", transition)


def test_others_are_no_business_of_ours(watcher: events.EventWatcher, server: Server) -> None:
    server.records["c"] = record("c", 103, uuid=None)
    watcher._handle(lifecycle("instance-stopped", "c"))
    watcher._handle(lifecycle("instance-stopped", "d", project="default"))
    watcher._handle(lifecycle("image-created", "c"))
    watcher._emit.assert_not_called()


def test_guest_restart_is_handed_on(watcher: events.EventWatcher, server: Server) -> None:
    server.records["c"] = record("c", 103)
    watcher._restarted.side_effect = RuntimeError("a listener's own trouble")
    watcher._handle(lifecycle("instance-restarted", "c"))
    watcher._restarted.assert_called_once_with("c")
    assert watcher._emit.called, "one listener's failure is not another's"


def test_deleted_is_forgotten(watcher: events.EventWatcher, server: Server) -> None:
    server.records["c"] = record("c", 103)
    watcher.refresh("c")
    del server.records["c"]
    watcher._handle(lifecycle("instance-deleted", "c"))
    assert watcher.all() == {}


def test_no_cache_without_a_stream(watcher: events.EventWatcher, server: Server) -> None:
    server.records["c"] = record("c", 103)
    watcher.refresh("c")
    watcher._current = False
    server.records["c"] = record("c", 102)
    assert watcher.lookup("c").state == power_state.SHUTDOWN
    assert watcher._known["c"].state == power_state.RUNNING, "kept to tell what changed"
    watcher._emit_missed(watcher._known, watcher._read_all())
    (event,) = watcher._emit.call_args[0]
    assert event.get_transition() == virtevent.EVENT_LIFECYCLE_STOPPED


def test_every_status_code_has_a_power_state() -> None:
    for code in range(101, 114):
        assert events.known(record("c", code)).state in power_state.STATE_MAP
