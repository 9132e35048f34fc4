# SPDX-License-Identifier: Apache-2.0
"""What is made of tempest's output, and the lists of its tests."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest
from cloud import tempestrun

OUTPUT = """\
{0} setUpClass (tempest.api.compute.A) ... SKIPPED: Skipped because of no Glance import
{1} tempest.api.compute.B.test_one[id-1,smoke] [0.512345s] ... ok
{0} tempest.api.compute.B.test_two[id-2] [1.5s] ... FAILED
{0} tempest.api.compute.B.test_three[id-3] ... SKIPPED: Skipped because of no Glance import
Captured traceback:
"""


def test_summary_counts_and_names() -> None:
    assert tempestrun.summary(OUTPUT.splitlines()).splitlines() == [
        "tempest: 1 passed, 1 failed, 2 skipped",
        "  failed: tempest.api.compute.B.test_two[id-2]",
        "  skipped 2: Skipped because of no Glance import",
    ]


@pytest.mark.parametrize("path", [tempestrun.SHARE, tempestrun.FULL])
def test_lists_are_regular_expressions(path: Path) -> None:
    found = tempestrun.patterns(path)
    assert found
    for pattern in found:
        re.compile(pattern)


PASSWORD = (
    "tempest.api.compute.servers.test_server_actions.ServerActionsTestJSON"
    ".test_change_server_password"
)
TESTS = (
    f"{PASSWORD}[id-1,smoke]",
    f"{PASSWORD}_twice[id-2]",
    "tempest.api.compute.other.B.test[id-3]",
)


@pytest.mark.parametrize("wanted", [["servers", "other"], tempestrun.patterns(tempestrun.FULL)])
def test_what_spoils_its_class_has_a_run_of_its_own(wanted: list[str]) -> None:
    ran = [
        [
            test
            for test in TESTS
            if re.search(selected, test) and not any(re.search(each, test) for each in besides)
        ]
        for selected, besides in tempestrun.passes(wanted)
    ]
    assert len(ran) == 2
    assert TESTS[0] not in ran[0] and TESTS[1] in ran[0]
    assert ran[1] == [TESTS[0]]


def test_one_run_where_nothing_spoils_the_others() -> None:
    assert tempestrun.passes(["^tempest.api.image", "other"]) == [("^tempest.api.image|other", [])]


class Interrupted(list[str]):
    """Lines whose reader is told to end at the first one."""

    def append(self, line: str) -> None:
        super().append(line)
        raise KeyboardInterrupt


def test_workers_end_with_a_run_that_is_ended(tmp_path: Path) -> None:
    program = (
        "import subprocess; worker = subprocess.Popen(['sleep', '60']); "
        "print(worker.pid, flush=True); worker.wait()"
    )
    lines = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        tempestrun.followed([sys.executable, "-c", program], tmp_path, os.environ, lines)
    worker = Path("/proc", lines[0].strip(), "stat")
    deadline = time.monotonic() + 10
    while worker.exists() and ") Z " not in worker.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not worker.exists() or ") Z " in worker.read_text()
