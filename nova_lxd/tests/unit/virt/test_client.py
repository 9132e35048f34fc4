# SPDX-License-Identifier: Apache-2.0
"""Requests: errors by status, repetition only where it is safe, one session per thread."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pylxd.exceptions
import pytest
import requests

from nova_lxd.virt import client, exception


def response(status: int, body: dict[str, Any]) -> Any:
    return SimpleNamespace(status_code=status, json=lambda: body, content=str(body).encode())


class Node:
    """pylxd's node: collects the path, answers from a script."""

    def __init__(self, script: list[Any], log: list[Any], path: tuple[str, ...] = ()) -> None:
        self._script, self._log, self._path = script, log, path

    def __getitem__(self, part: str) -> Node:
        return Node(self._script, self._log, (*self._path, part))

    def _answer(self, verb: str, **kwargs: Any) -> Any:
        self._log.append((verb, *self._path, kwargs.get("params")))
        answer = self._script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return response(200, answer)

    def get(self, **kwargs: Any) -> Any:
        return self._answer("get", **kwargs)

    def post(self, **kwargs: Any) -> Any:
        return self._answer("post", **kwargs)

    def delete(self, **kwargs: Any) -> Any:
        return self._answer("delete", **kwargs)


@pytest.fixture
def conf() -> Any:
    return SimpleNamespace(
        endpoint="/nowhere/unix.socket", client_cert=None, client_key=None, server_cert=None,
        request_timeout=5, operation_timeout=60, var_dir=None,
    )  # fmt: skip


@pytest.fixture
def lxd(conf: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    subject = client.LXDClient(conf, "p")
    subject.script, subject.log = [], []
    session = SimpleNamespace(api=Node(subject.script, subject.log))
    monkeypatch.setattr(subject, "_connect", lambda: session)
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    return subject


def refused(status: int) -> pylxd.exceptions.LXDAPIException:
    return pylxd.exceptions.LXDAPIException(response(status, {"error": "LXD's sentence"}))


@pytest.mark.parametrize(
    "status,kind",
    [
        (404, exception.LXDNotFound),
        (409, exception.LXDConflict),
        (412, exception.LXDConflict),
        (400, exception.LXDRefused),
        (500, exception.LXDError),
    ],
)
def test_errors_by_status(lxd: Any, status: int, kind: type) -> None:
    lxd.script.append(refused(status))
    with pytest.raises(kind, match="LXD's sentence") as caught:
        lxd.get("instances", "c")
    assert type(caught.value) is kind and caught.value.status == status


def test_reads_are_repeated_changes_are_not(lxd: Any) -> None:
    lost = requests.ConnectionError("gone")
    lxd.script += [lost, lost, {"type": "sync", "metadata": [1]}]
    assert lxd.get("instances") == [1]
    lxd.script += [lost]
    with pytest.raises(exception.LXDUnavailable, match="gone"):
        lxd.post("instances", json={})
    assert not lxd.script


def test_reads_give_up(lxd: Any) -> None:
    lxd.script += [requests.ConnectionError("gone")] * client.READ_ATTEMPTS
    with pytest.raises(exception.LXDUnavailable):
        lxd.get("instances")


def test_project_goes_along_but_for_the_host(lxd: Any) -> None:
    lxd.script += [{"metadata": {}}] * 3
    lxd.get("instances", "a b")
    lxd.get("projects")
    lxd.server()
    assert lxd.log == [
        ("get", "instances", "a%20b", {"project": "p"}),
        ("get", "projects", {}),
        ("get", {}),
    ]


def test_waits_until_the_operation_ends(lxd: Any) -> None:
    running = {"metadata": {"status_code": 103}}
    done = {"metadata": {"status_code": 200, "metadata": {"fingerprint": "f"}}}
    lxd.script += [{"type": "async", "metadata": {"id": "op"}}, running, done]
    assert lxd.post("images")["metadata"] == {"fingerprint": "f"}


def test_failed_operation_carries_reason_and_data(lxd: Any) -> None:
    failed = {"status_code": 400, "err": "no space", "metadata": {"return": 127}}
    lxd.script += [{"type": "async", "metadata": {"id": "op"}}, {"metadata": failed}]
    with pytest.raises(exception.LXDError, match="no space") as caught:
        lxd.post("instances", "c", "exec")
    assert caught.value.metadata == {"return": 127}


def test_endless_operation_is_cancelled(lxd: Any, conf: Any, monkeypatch: Any) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(client.time, "monotonic", lambda: next(clock))
    running = {"metadata": {"status_code": 103}}
    lxd.script += [{"type": "async", "metadata": {"id": "op"}}] + [running] * 9
    with pytest.raises(exception.LXDTimeout, match="operation_timeout"):
        lxd.post("instances")
    assert lxd.log[-1][:3] == ("delete", "operations", "op")


def test_missing_ok(lxd: Any) -> None:
    lxd.script += [refused(404), refused(404)]
    lxd.delete("images", "f", missing_ok=True)
    with pytest.raises(exception.LXDNotFound):
        lxd.delete("images", "f")


def test_a_session_per_thread(conf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = client.LXDClient(conf, "p")
    monkeypatch.setattr(subject, "_connect", mock.Mock(side_effect=object))
    seen = [subject.session(), subject.session()]
    thread = threading.Thread(target=lambda: seen.append(subject.session()))
    thread.start()
    thread.join()
    assert seen[0] is seen[1] and seen[0] is not seen[2]
