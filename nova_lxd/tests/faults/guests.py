# SPDX-License-Identifier: Apache-2.0
"""What a worker believes about the guests it alone works on.

A call that was acknowledged binds the daemon for ever; one whose answer was lost may have happened
or not, and the auditor takes the daemon's word for which.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# What a file may hold: one value when known, several after a lost answer, None = anything.
Contents = set[bytes] | None


@dataclass
class Guest:
    """One name.  ``None`` means that only the daemon knows."""

    name: str
    exists: bool | None = False
    running: bool | None = False
    # A deletion that failed in the midst is finished by the next daemon.
    deleting: bool = False
    snapshots: dict[str, bool | None] = field(default_factory=dict)
    snapshot_files: dict[str, Contents] = field(default_factory=dict)
    file: Contents = field(default_factory=lambda: {b""})

    def made(self, file: Contents = None) -> None:
        """It was created anew, its file as given (b"" = none)."""
        self.exists, self.running, self.deleting = True, False, False
        self.snapshots.clear()
        self.snapshot_files.clear()
        self.file = {b""} if file is None else set(file)

    def gone(self) -> None:
        """It was deleted."""
        self.made()
        self.exists = False

    def doubtful(self) -> None:
        """A call that makes or removes it was cut off."""
        self.exists = None
        self.running = None
        self.file = None
        self.snapshots = {name: None for name in self.snapshots}
