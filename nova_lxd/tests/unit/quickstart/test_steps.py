# SPDX-License-Identifier: Apache-2.0
"""The order of steps, what a failure does, what a second run leaves out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cloud.errors import CloudError
from cloud.progress import Progress
from cloud.steps import Runner, Step, check_graph, fingerprint


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, Progress())


def recorder(seen: list[str], name: str) -> Callable[[], None]:
    return lambda: seen.append(name)


def test_needs_come_first(runner: Runner) -> None:
    seen: list[str] = []
    runner.run([
        Step("c", recorder(seen, "c"), needs=("b",)),
        Step("b", recorder(seen, "b"), needs=("a",)),
        Step("a", recorder(seen, "a")),
    ])
    assert seen == ["a", "b", "c"]


def test_steps_without_common_needs_run_side_by_side(runner: Runner) -> None:
    meeting = threading.Barrier(2, timeout=10)
    runner.run([Step(name, lambda: meeting.wait() is None) for name in ("a", "b")])


def test_failure_stops_what_comes_after_and_is_raised(runner: Runner) -> None:
    seen: list[str] = []

    def fail() -> None:
        raise CloudError("no luck.", remedy="try again")

    with pytest.raises(CloudError, match="no luck"):
        runner.run([Step("a", fail), Step("b", recorder(seen, "b"), needs=("a",))])
    assert seen == []


def test_operating_system_error_names_the_step(runner: Runner) -> None:
    with pytest.raises(CloudError, match=r"'a' failed: .*/nowhere"):
        runner.run([Step("a", lambda: Path("/nowhere/at all").write_text("") and None)])


def test_stamped_step_runs_once_until_its_stamp_changes(runner: Runner) -> None:
    seen: list[str] = []
    for stamp in ("1", "1", "2"):
        runner.run([Step("a", recorder(seen, stamp), stamp=stamp)])
    assert seen == ["1", "2"]


def test_failed_step_leaves_no_stamp(runner: Runner) -> None:
    seen: list[str] = []

    def fail() -> None:
        raise CloudError("no.")

    with pytest.raises(CloudError):
        runner.run([Step("a", fail, stamp="1")])
    runner.run([Step("a", recorder(seen, "a"), stamp="1")])
    assert seen == ["a"]


@pytest.mark.parametrize(("steps", "message"), [
    ([Step("a", bool), Step("a", bool)], "share a name"),
    ([Step("a", bool, needs=("b",))], "not in the plan"),
    ([Step("a", bool, needs=("b",)), Step("b", bool, needs=("a",))], "need each other"),
])
def test_impossible_plans_are_refused(steps: list[Step], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_graph(steps)


def test_fingerprint_tells_parts_and_file_contents_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    absent = fingerprint(path)
    path.write_text("one")
    one = fingerprint(path)
    path.write_text("two")
    assert len({absent, one, fingerprint(path)}) == 3
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
