# SPDX-License-Identifier: Apache-2.0
"""Facts of this machine."""

from __future__ import annotations

from pathlib import Path


def mounts_below(directory: Path) -> list[Path]:
    """The mount points at or below ``directory``, the innermost first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if Path(point).is_relative_to(directory):
            points.append(Path(point))
    return points[::-1]
