# SPDX-License-Identifier: Apache-2.0
"""`lxc` prints on either server what it printed on real LXD, command by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.transcript import DIRECTORY, read, run


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(own: Daemon, path: Path) -> None:
    wanted = read(path.read_text())
    got = run(own, (step.command for step in wanted))
    differing = [
        f"{theirs.render()}\n--- but here:\n{ours.render()}"
        for theirs, ours in zip(wanted, got, strict=True)
        if theirs != ours
    ]
    assert not differing, "\n\n".join(["LXD printed:", *differing])
