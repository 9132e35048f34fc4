# SPDX-License-Identifier: Apache-2.0
"""The one error that a person at the terminal sees."""

from __future__ import annotations

from pathlib import Path


class CloudError(Exception):
    """A step failed: what was attempted, why it failed, where the log is, what to do.

    ``problem`` is one sentence; ``log`` the file that holds the details; ``remedy`` what the
    person can do, in the imperative.
    """

    def __init__(self, problem: str, *, log: Path | None = None, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.log = log
        self.remedy = remedy

    def report(self, tail_lines: int = 15) -> str:
        """The message for the terminal, with the end of the log when there is one."""
        parts = [self.problem]
        if self.log is not None:
            parts.append(f"log: {self.log}")
            if self.log.is_file():
                lines = self.log.read_text(errors="replace").splitlines()[-tail_lines:]
                parts.extend(f"    | {line}" for line in lines)
        if self.remedy:
            parts.append(f"what to do: {self.remedy}")
        return "\n".join(parts)
