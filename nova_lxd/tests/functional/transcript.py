# SPDX-License-Identifier: Apache-2.0
"""What `lxc` prints, recorded from real LXD: a command after ``$``, its standard output, ``[N]``.

``python -m nova_lxd.tests.functional.transcript FILE…`` runs the commands of each file on real LXD
and writes down what they print and how they exit.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.tests.functional.daemon import Daemon

DIRECTORY = Path(__file__).with_name("transcripts")
# What differs from run to run, and what is only shown while something goes on.
_VARIABLE = (
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b"), "FINGERPRINT"),
    (re.compile(r"\b00:16:3e(:[0-9a-f]{2}){3}\b"), "MAC"),
    (re.compile(r"\bveth[0-9a-f]{8}\b"), "VETH"),
    (re.compile(r"\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?( UTC|Z)?"), "TIME"),
    (re.compile(r"\b10\.77\.0\.\d+\b"), "ADDRESS"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"-{3,}"), "---"),
)
_PROGRESS = (
    "Exporting ",
    "Importing ",
    "Publishing ",
    "Pushing ",
    "Remapping ",
    "Retrieving ",
    "Transferring ",
)


@dataclass(frozen=True)
class Step:
    """One command, the lines that it prints, and its exit code."""

    command: str
    output: tuple[str, ...]
    code: int

    def render(self) -> str:
        """The step as a transcript has it."""
        lines = [f"$ {self.command}", *self.output]
        if self.code:
            lines.append(f"[{self.code}]")
        return "\n".join(lines)


def read(text: str) -> list[Step]:
    """The steps of a transcript; lines that begin with ``#`` are remarks."""
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], (), 0))
        elif steps and not line.startswith("#"):
            last = steps.pop()
            if match := re.fullmatch(r"\[(\d+)\]", line):
                steps.append(Step(last.command, last.output, int(match[1])))
            else:
                steps.append(Step(last.command, (*last.output, line), 0))
    return steps


def _stable(output: str, home: Path) -> tuple[str, ...]:
    text = output.replace(str(home), "HOME").replace("\r", "\n")
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith(_PROGRESS))


def run(daemon: Daemon, commands: Iterable[str]) -> list[Step]:
    """Run commands by a shell beside the daemon; what they print and how they exit."""
    steps = []
    for command in commands:
        done = daemon.sandbox.run(
            ["bash", "-c", f"cd {daemon.home}; {command}"],
            check=False,
            timeout=120,
            env=daemon.environment,
        )
        steps.append(Step(command, _stable(done.stdout, daemon.home), done.returncode))
    return steps


def record(path: Path) -> None:
    """Write down what real LXD prints for a transcript's commands; remarks stay, at its top."""
    from nova_lxd.tests.functional.conftest import furnish

    text = path.read_text()
    remarks = [line for line in text.splitlines() if line.startswith("#")]
    with Daemon("lxd", "record") as daemon:
        furnish(daemon)
        steps = run(daemon, (step.command for step in read(text)))
    path.write_text("\n".join([*remarks, *(step.render() for step in steps), ""]))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record(Path(name))
