# SPDX-License-Identifier: Apache-2.0
"""What is made of tempest's output, and the lists of its tests."""

from __future__ import annotations

import re
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
