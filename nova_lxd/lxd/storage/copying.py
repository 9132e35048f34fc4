# SPDX-License-Identifier: Apache-2.0
"""Whole trees on local file systems: copy, make equal, remove; all of a file is kept."""

from __future__ import annotations

import os
from pathlib import Path

from nova_lxd.lxd.host.run import ProgramError, run

#: Copying or sending a large tree takes as long as it takes; this bounds a hung disk only.
LONG = 24 * 3600.0
#: Put before a program that must not outlive the daemon: the sweep at start-up may not race it.
MORTAL = ("setpriv", "--pdeathsig", "KILL", "--")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree into a directory that exists or not; data are shared where the disk can.

    Owners, modes, times, hard links, holes, ACLs and extended attributes (file capabilities) are
    kept.  Files that vanish while they are copied are an error: freeze what runs on the source.

    :raises ProgramError: a file could not be copied; half of the tree is left at the target.
    """
    run(
        [*MORTAL, "cp", "-a", "--reflink=auto", "-T", "--", str(source), str(target)], timeout=LONG
    )


def equal_tree(source: Path, target: Path, bwlimit: str = "") -> None:
    """Make the tree at target equal to the one at source, moving only what differs."""
    limit = [f"--bwlimit={bwlimit}"] if bwlimit else []
    run(
        [
            *MORTAL, "rsync", "-aHAX", "--devices", "--specials", "--numeric-ids", "--sparse",
            "--delete", *limit, "--", f"{source}/", f"{target}/",
        ],
        timeout=LONG,
    )  # fmt: skip


def remove_tree(path: Path) -> None:
    """Remove a tree, immutable and append-only files too; fine when it is not there."""
    if not os.path.lexists(path):
        return
    argv = [*MORTAL, "rm", "-rf", "--one-file-system", "--", str(path)]
    try:
        run(argv, timeout=LONG)
    except ProgramError:
        run(["chattr", "-R", "-f", "-ai", "--", str(path)], check=False, timeout=LONG)
        run(argv, timeout=LONG)
