# SPDX-License-Identifier: Apache-2.0
"""What the test command reads out of its parts' output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tools"))

from testrun.report import read

JUNIT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure/></testcase>
<testcase name="c"><skipped message="needs root"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "part.log"


def test_junit_report_counts(tmp_path: Path, log: Path) -> None:
    report = tmp_path / "r.xml"
    report.write_text(JUNIT)
    log.write_text("1 failed, 1 passed, 1 skipped, 2 rerun in 0.10s\n")
    result = read("x", ["pytest"], 1, report, log, 0)
    assert (result.passed, result.failed, result.skipped, result.repeated) == (1, 1, 1, 2)
    assert result.reasons == {"needs root": 1}


@pytest.mark.parametrize(
    "line", ["4 passed, 1 failed, 2 skipped", "tempest: 4 passed, 1 failed, 2 skipped"]
)
def test_closing_line_counts(tmp_path: Path, log: Path, line: str) -> None:
    log.write_text(f"old 9 passed, 0 failed\nskipped: no volumes\n  skipped 1: no cdrom\n{line}\n")
    result = read("x", ["tool"], 1, tmp_path / "none.xml", log, 0)
    assert (result.passed, result.failed, result.skipped) == (4, 1, 2)
    assert result.reasons == {"no volumes": 1, "no cdrom": 1}


def test_only_this_commands_output_counts(tmp_path: Path, log: Path) -> None:
    log.write_text("7 passed, 7 failed\n")
    start = log.stat().st_size
    with log.open("a") as stream:
        stream.write("1 passed, 0 failed\n")
    result = read("x", ["tool"], 0, tmp_path / "none.xml", log, start)
    assert (result.passed, result.failed) == (1, 0)


def test_a_linter_is_one_test(tmp_path: Path, log: Path) -> None:
    log.write_text("")
    assert read("x", ["ruff"], 0, tmp_path / "none.xml", log, 0).passed == 1
    failed = read("x", ["ruff"], 2, tmp_path / "none.xml", log, 0)
    assert failed.failed == 1 and "exit code 2" in failed.line()


def test_exit_code_counts_though_no_test_failed(tmp_path: Path, log: Path) -> None:
    log.write_text("3 passed, 0 failed\n")
    result = read("x", ["tool"], 124, tmp_path / "none.xml", log, 0)
    assert result.failed == 1 and "ran out of time" in result.line()
