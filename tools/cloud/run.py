# SPDX-License-Identifier: Apache-2.0
"""Run one program, its output kept in a log file."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud.errors import CloudError


def run(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 1800,
    text: str | None = None,
    remedy: str = "",
) -> str:
    """Run ``argv`` to its end and return its standard output.

    Both outputs are appended to ``log`` under a copyable command line.  ``env`` is added to the
    environment.  Raises CloudError when the program is missing, fails or takes longer than
    ``timeout`` seconds.
    """
    words = [str(word) for word in argv]
    line = shlex.join(words)
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.strftime("%H:%M:%S")
    with log.open("a") as stream:
        stream.write(f"# {started} {line}\n")
        stream.flush()
        try:
            result = subprocess.run(
                words, env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}, cwd=cwd, input=text,
                stdin=subprocess.DEVNULL if text is None else None,
                stdout=subprocess.PIPE, stderr=stream, text=True, timeout=timeout, check=False,
            )
        except FileNotFoundError as error:
            raise CloudError(f"the program {words[0]} is not there.", remedy=remedy) from error
        except subprocess.TimeoutExpired as error:
            raise CloudError(
                f"'{line}' did not end within {timeout:.0f} seconds.", log=log, remedy=remedy
            ) from error
        stream.write(result.stdout)
    if result.returncode != 0:
        raise CloudError(
            f"'{shorten(line)}' ended with status {result.returncode}.", log=log, remedy=remedy
        )
    return result.stdout


def shorten(line: str, limit: int = 160) -> str:
    """``line`` cut in the middle of nothing: its start, with an ellipsis when it is longer."""
    return line if len(line) <= limit else line[: limit - 3] + "..."
