# SPDX-License-Identifier: Apache-2.0
"""The parts of the test run: what each runs in full, and the share of it that CI runs.

A part's commands run in order; ``{python}`` is the environment's interpreter, ``{bin}`` its
directory of programs, ``{report}`` the file for a JUnit report, ``{work}`` a scratch directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Command = tuple[str, ...]
_PYTEST = ("{python}", "-m", "pytest", "-q", "--junitxml={report}")


@dataclass(frozen=True)
class Part:
    """One part of the run.

    :param full: the commands of the whole part.
    :param share: those of CI's share; the whole part when empty.
    :param minutes: time after which the part counts as failed.
    :param root: it makes containers, mounts and network namespaces.
    :param always: run after the others even when one of them failed (cleans up).
    """

    name: str
    doc: str
    full: tuple[Command, ...]
    share: tuple[Command, ...] = ()
    minutes: int = 15
    root: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def commands(self, whole: bool) -> tuple[Command, ...]:
        return self.full if whole or not self.share else self.share


PARTS: tuple[Part, ...] = (
    Part(
        "style",
        "ruff on all Python, shellcheck on all shell",
        (
            ("{bin}/ruff", "check", "."),
            ("{python}", "tools/testrun/shells.py"),
        ),
    ),
    Part("types", "mypy --strict on the daemon", (("{bin}/mypy",),)),
    Part(
        "docs",
        "the documentation builds without a warning",
        (("{python}", "-m", "sphinx", "-q", "-W", "-b", "html", "doc/source", "{work}/html"),),
    ),
    Part("unit", "fast tests, no root, no programs", ((*_PYTEST, "nova_lxd/tests/unit"),)),
)
