# SPDX-License-Identifier: Apache-2.0
"""Whole trees on local file systems: copy, make equal, remove; all of a file is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nova_lxd.lxd.host.run import Completed, ProgramError, run

#: Copying or sending a large tree takes as long as it takes; this bounds a hung disk only.
LONG = 24 * 3600.0


def run_mortal(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program that must not outlive the daemon, nor race the sweep at its next start.

    setpriv asks for SIGKILL at the end of the thread that waits for the program; the shell sees
    whether the daemon had ended before that was asked for.

    :raises ProgramError: it failed.
    """
    check = 'test "$PPID" = "$0" && exec "$@"'
    watch = ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", check, str(os.getpid())]
    try:
        return run([*watch, *argv], stdin=stdin, stdout=stdout, pass_fds=pass_fds, timeout=LONG)
    except ProgramError as exc:
        raise ProgramError(argv, exc.returncode, exc.stderr) from exc


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree into a directory that exists or not; data are shared where the disk can.

    Owners, modes, times, hard links, holes, ACLs and extended attributes (file capabilities) are
    kept.  Files that vanish while they are copied are an error: freeze what runs on the source.

    :raises ProgramError: a file could not be copied; half of the tree is left at the target.
    """
    run_mortal(["cp", "-a", "--reflink=auto", "-T", "--", str(source), str(target)])


def equal_tree(source: Path, target: Path, bwlimit: str = "") -> None:
    """Make the tree at target equal to the one at source, moving only what differs."""
    limit = [f"--bwlimit={bwlimit}"] if bwlimit else []
    run_mortal(
        [
            "rsync", "-aHAX", "--devices", "--specials", "--numeric-ids", "--sparse",
            "--modify-window=-1", "--delete", *limit, "--", f"{source}/", f"{target}/",
        ]
    )  # fmt: skip


def remove_tree(path: Path) -> None:
    """Remove a tree, immutable and append-only files too; fine when it is not there."""
    if not os.path.lexists(path):
        return
    argv = ["rm", "-rf", "--one-file-system", "--", str(path)]
    try:
        run_mortal(argv)
    except ProgramError:
        run(["chattr", "-R", "-f", "-ai", "--", str(path)], check=False, timeout=LONG)
        run_mortal(argv)
