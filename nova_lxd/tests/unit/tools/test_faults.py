# SPDX-License-Identifier: Apache-2.0
"""The fault run's own beliefs: what binds the daemon, and that the auditor sees it broken."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nova_lxd.tests.faults.audit import Audit
from nova_lxd.tests.faults.calls import Caller, Cut, Refused
from nova_lxd.tests.faults.guests import Guest
from nova_lxd.tests.faults.things import Things, Volumes
from nova_lxd.tests.faults.worker import Worker


class FakeDaemon:
    """Answers each call with the next of the given ones; an exception is raised."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.lxd_dir = Path("/nowhere")

    def api(self, *_args: object, **_kwargs: object) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def accepted() -> Any:
    return SimpleNamespace(status=202, body={"operation": "/1.0/operations/1"})


def ended(code: int = 200, err: str = "") -> Any:
    metadata = {"status_code": code, "description": "Test", "err": err, "metadata": {"return": 0}}
    return SimpleNamespace(status=200, metadata=metadata)


def caller(*answers: object) -> Caller:
    return Caller(FakeDaemon(*answers), Path("/nowhere"))  # type: ignore[arg-type]


def worker(*answers: object) -> Worker:
    return Worker(caller(*answers), 0, "seed")


def auditor(guest: Guest, content: bytes, told: dict[str, str] | None = None) -> Audit:
    daemon: Any = FakeDaemon(SimpleNamespace(status=200, body=content))
    follower: Any = SimpleNamespace(states=told or {})
    return Audit(daemon, [guest], follower)


def test_acknowledged_creation_is_believed() -> None:
    subject = worker(accepted(), ended())
    guest = subject.guests[0]
    subject._create(guest)
    assert (guest.exists, guest.running, guest.file) == (True, False, {b""})


def test_lost_answer_leaves_doubt() -> None:
    subject = worker(accepted(), ConnectionResetError())
    guest = Guest("g", exists=True, file={b"x"}, snapshots={"s": True})
    with pytest.raises(Cut):
        subject._delete(guest)
    assert (guest.exists, guest.file, guest.snapshots) == (None, None, {"s": None})


def test_operation_that_ended_with_its_daemon_leaves_doubt() -> None:
    gone = SimpleNamespace(status=404, error="Operation not found")
    guest = Guest("g", exists=True, running=False)
    with pytest.raises(Cut):
        worker(accepted(), gone)._start(guest)
    assert guest.running is None


def test_refused_creation_must_leave_nothing() -> None:
    subject = worker(accepted(), ended(400, "disk full"))
    guest = subject.guests[0]
    with pytest.raises(Refused, match="disk full"):
        subject._create(guest)
    assert guest.exists is False


def test_restore_brings_back_what_the_snapshot_held() -> None:
    guest = Guest("g", exists=True, running=True, file={b"new"})
    guest.snapshots, guest.snapshot_files = {"s": True}, {"s": {b"old"}}
    worker(accepted(), ended())._restore(guest)
    assert (guest.file, guest.running) == ({b"old"}, True)


def found(status: str = "Running", snapshots: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"status": status, "snapshots": [{"name": name} for name in snapshots]}


@pytest.mark.parametrize(
    ("guest", "there", "content", "finding"),
    [
        (Guest("g", exists=True), None, b"", "exists is False"),
        (Guest("g", exists=False, running=None), found(), b"", "exists is True"),
        (Guest("g", exists=True, running=False), found(), b"", "status is Running"),
        (Guest("g", exists=True, running=None, file={b"a"}), found(), b"b", "acknowledged {b'a'}"),
        (
            Guest("g", exists=True, running=None, snapshots={"s": True}),
            found(),
            b"",
            "snapshot s is lost",
        ),
        (Guest("g", exists=True, running=None), found(snapshots=("s",)), b"", "s is back"),
    ],
)
def test_auditor_sees_a_broken_promise(
    guest: Guest, there: dict[str, Any] | None, content: bytes, finding: str
) -> None:
    audit = auditor(guest, content)
    audit._instances = {} if there is None else {"g": there}
    audit._acknowledged()
    assert len(audit.findings) == 1 and finding in audit.findings[0]


def test_auditor_takes_the_daemons_word_in_doubt() -> None:
    guest = Guest("g", exists=None, running=None, file=None, snapshots={"s": None})
    audit = auditor(guest, b"x")
    audit._instances = {"g": found("Stopped", ("s",))}
    audit._acknowledged()
    assert audit.findings == []
    assert (guest.exists, guest.running, guest.file) == (True, False, {b"x"})
    assert guest.snapshots == {"s": True}


def test_auditor_sees_a_lost_event() -> None:
    audit = auditor(Guest("g"), b"", {"g": "Stopped"})
    audit._instances = {"g": found("Running")}
    audit._events()
    assert len(audit.findings) == 1 and "by the events" in audit.findings[0]
    audit._instances = {"g": found("Stopped")}
    audit.findings = []
    audit._events()
    assert audit.findings == []


def volume(description: str) -> Any:
    return SimpleNamespace(status=200, metadata={"description": description})


def gone() -> Any:
    return SimpleNamespace(status=404, error="Not Found")


@pytest.mark.parametrize(
    ("answers", "finding"),
    [
        ([SimpleNamespace(status=200), volume("new")], ""),
        ([SimpleNamespace(status=200), volume("old")], "acknowledged ['new']"),
        ([SimpleNamespace(status=200), gone()], "exists is False, acknowledged True"),
        ([ConnectionResetError(), volume("old")], ""),
        ([ConnectionResetError(), volume("new")], ""),
        ([ConnectionResetError(), volume("other")], "acknowledged ['new', 'old']"),
        ([SimpleNamespace(status=500, error="no"), volume("new")], "acknowledged ['old']"),
    ],
)
def test_a_change_is_believed_as_far_as_it_was_acknowledged(
    answers: list[object], finding: str
) -> None:
    things = Things(Volumes(), ["v"], caller(*answers))
    thing = things.all[0]
    thing.exists, thing.values = True, frozenset({"old"})
    with contextlib.suppress(Cut, Refused):
        things._change(thing, "new")
    findings = things.audit()
    assert (finding in findings[0] and len(findings) == 1) if finding else findings == []
