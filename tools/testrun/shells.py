# SPDX-License-Identifier: Apache-2.0
"""Run shellcheck on every shell script of the repository, found by its first line.

devstack's files must pass bashate, too, with the rules that devstack itself is checked by.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def scripts() -> list[str]:
    """Tracked files that begin with a shell's #! line, or end in .sh."""
    names = subprocess.run(
        ["git", "ls-files"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    found = []
    for name in names:
        path = Path(name)
        if not path.is_file() or path.is_symlink():
            continue
        with path.open("rb") as stream:
            first = stream.readline(100)
        if name.endswith(".sh") or (first.startswith(b"#!") and b"sh" in first.split(b"/")[-1]):
            found.append(name)
    return found


def devstack(names: list[str]) -> list[str]:
    """Those of ``names`` that devstack reads."""
    return [name for name in names if name.startswith("devstack/")]


def main() -> int:
    found = scripts()
    print(f"shellcheck: {len(found)} scripts")
    code = subprocess.run(["shellcheck", "-x", *found], check=False).returncode if found else 0
    plugin = devstack(found)
    print(f"bashate: {len(plugin)} scripts")
    rules = ("--ignore=E006", "--error=E005,E042")  # as in devstack's own tox.ini
    bashate = (sys.executable, "-m", "bashate.bashate")
    checked = subprocess.run([*bashate, *rules, *plugin], check=False)
    return code or checked.returncode


if __name__ == "__main__":
    sys.exit(main())
