# SPDX-License-Identifier: Apache-2.0
"""The fuzzer's seeds, and what it once found: every reader takes them as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from nova_lxd.tests.fuzz.guided import CORPUS, seeds
from nova_lxd.tests.fuzz.targets import TARGETS

_CASES = [
    # Unpacking confines its process for good.
    (name, path) for name in TARGETS if name != "unpacking" for path in seeds(name)
]


@pytest.mark.parametrize(("name", "path"), _CASES, ids=lambda case: getattr(case, "name", case))
def test_reader_takes_it(name: str, path: Path) -> None:
    TARGETS[name](path.read_bytes())


def test_each_reader_has_seeds() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(seeds(name) for name in TARGETS)
