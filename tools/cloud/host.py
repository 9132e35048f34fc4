# SPDX-License-Identifier: Apache-2.0
"""Facts of this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Every process of a cloud carries its state directory under this name in its environment.
MARK = "NOVA_LXD_CLOUD_STATE"


def mounts_below(directory: Path) -> list[Path]:
    """The mount points at or below ``directory``, the innermost first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if Path(point).is_relative_to(directory):
            points.append(Path(point))
    return points[::-1]


def boot_id() -> str:
    """Tells one boot of this machine from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def processes_of(state: Path) -> list[tuple[int, str]]:
    """(pid, command line) of every process that the cloud in ``state`` started."""
    wanted = f"{MARK}={state}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                # One with more privileges than we have is not ours.
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append((int(entry.name), line.decode(errors="replace").strip()))
    return sorted(found)
