# SPDX-License-Identifier: Apache-2.0
"""A stop whose record cannot be written leaves no instance behind that only seems to run."""

from __future__ import annotations

import signal
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.instances import confine, deviceset, rootmount, stop


class FakeInstances:
    """As much of the registry as a clean-up needs."""

    def __init__(self, power: str) -> None:
        paths = SimpleNamespace(rootfs_mount=lambda _project, _name: None)
        self.ctx = SimpleNamespace(db=None, paths=paths)
        self.power = power
        self.forgotten = 0

    def record(self, _inst: object) -> Any:
        return SimpleNamespace(config={"volatile.last_state.power": self.power})

    def expanded(self, _record: object) -> Any:
        return SimpleNamespace(config={}, devices={})

    def target(self, _inst: object) -> str:
        return "stop"

    def stop_changes(self, _record: object) -> dict[str, str]:
        return {}

    def forget_running(self, _inst: object) -> None:
        self.forgotten += 1


def _instance(running: object) -> Any:
    return SimpleNamespace(project="default", name="c1", id=1, idmap=None, running=running)


def test_clean_up_forgets_the_processes_when_the_database_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(stop.db_instances, "set_config", refuse)
    monkeypatch.setattr(deviceset, "view", lambda *_args: None)
    monkeypatch.setattr(deviceset, "post_stop", lambda *_args: {})
    monkeypatch.setattr(rootmount, "unmount", lambda *_args: None)
    monkeypatch.setattr(confine, "remove", lambda *_args: None)
    monkeypatch.setattr(stop, "_kill_leftovers", lambda *_args: None)
    svc: Any = FakeInstances("RUNNING")
    current: Any = SimpleNamespace(alive=False)
    with pytest.raises(sqlite3.OperationalError):
        stop.cleanup(svc, _instance(current), current)
    assert svc.forgotten == 1


@pytest.mark.parametrize(("power", "written"), [("RUNNING", ["STOPPED"]), ("STOPPED", [])])
def test_refused_stop_leaves_no_record_that_starts_it_at_boot(
    power: str, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def write(_db: object, _id: int, changes: dict[str, str]) -> None:
        told.append(changes["volatile.last_state.power"])

    monkeypatch.setattr(stop.db_instances, "set_config", write)
    svc: Any = FakeInstances(power)
    with pytest.raises(BadRequest, match="already stopped"):
        stop.stop(svc, _instance(None))
    assert told == written


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        ("", 0),
        ("lxc.signal.stop = SIGTERM", 0),
        ("lxc.signal.halt = SIGCONT", signal.SIGCONT),
        ("lxc.signal.halt=12", 12),
        ("lxc.signal.halt = SIGTERM\n lxc.signal.halt = SIGRTMIN+3\n", signal.SIGRTMIN + 3),
        ("lxc.signal.halt = SIGRTMAX-2", signal.SIGRTMAX - 2),
        ("# lxc.signal.halt = SIGTERM", 0),
        ("lxc.signal.halt = NOTHING", 0),
    ],
)
def test_halt_signal_of_raw_lxc(raw: str, number: int) -> None:
    assert stop.halt_signal(raw) == number
