# SPDX-License-Identifier: Apache-2.0
"""What a command's tests came to: from its JUnit report, its closing line or its exit code."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

_CLOSING = re.compile(r"^(?:\w+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", re.MULTILINE)
_SKIP = re.compile(r"^ *skipped(?: (\d+))?: (.+)$", re.MULTILINE)
_RERUN = re.compile(r"^(?:=+ )?(?:.*, )?(\d+) rerun\b", re.MULTILINE)
_OUT_OF_TIME = 124


@dataclass
class Result:
    """Counts of one part, with the reasons of its skips."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    repeated: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __iadd__(self, other: Result) -> Result:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.repeated += other.repeated
        self.seconds += other.seconds
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.problems += other.problems
        return self

    def line(self) -> str:
        """One line for the summary."""
        said = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        if self.repeated:
            said += f" ({self.repeated} tried twice)"
        extra = f" [{'; '.join(self.problems)}]" if self.problems else ""
        return f"{self.name}: {said} in {self.seconds:.0f} s{extra}"


def read(name: str, words: list[str], code: int, report: Path, log: Path, start: int) -> Result:
    """The result of one command; ``start`` is where its output begins in the log."""
    result = Result(name)
    if report.exists():
        _read_junit(report, result)
        result.repeated = sum(int(number) for number in _RERUN.findall(_output(log, start)))
    else:
        _read_text(log, start, result)
    if not (result.passed or result.failed or result.skipped) and code == 0:
        result.passed = 1  # a linter: the command itself is the test
    if code and not result.failed:
        result.failed += 1
        why = "ran out of time" if code == _OUT_OF_TIME else f"exit code {code}"
        result.problems.append(f"{' '.join(words[:4])}: {why}")
    return result


def _read_junit(report: Path, result: Result) -> None:
    for case in ET.parse(report).getroot().iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        elif skip is not None:
            result.skipped += 1
            reason = skip.get("message") or "no reason given"
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
        else:
            result.passed += 1


def _output(log: Path, start: int) -> str:
    """What the command printed."""
    with log.open("rb") as stream:
        stream.seek(start)
        return stream.read().decode("utf-8", "replace")


def _read_text(log: Path, start: int, result: Result) -> None:
    text = _output(log, start)
    for passed, failed, skipped in _CLOSING.findall(text):
        result.passed += int(passed)
        result.failed += int(failed)
        result.skipped += int(skipped or 0)
    for count, reason in _SKIP.findall(text):
        result.reasons[reason] = result.reasons.get(reason, 0) + int(count or 1)
