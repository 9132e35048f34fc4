# SPDX-License-Identifier: Apache-2.0
"""The one place that runs programs of the host."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from nova_lxd.lxd.errors import InternalError, refused_by_host

LOG = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 600.0
_STDERR_SHOWN = 400


@dataclass(frozen=True)
class Completed:
    """What a program that exited left: its code and what it printed."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")


class ProgramError(InternalError):
    """A program failed, is missing or ran out of time.

    ``returncode`` is its exit code (127 when it is not installed, -9 after a time-out).
    """

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str) -> None:
        self.argv = list(argv)
        self.returncode = returncode
        self.stderr = stderr
        said = " ".join(stderr.split())[-_STDERR_SHOWN:]
        super().__init__(
            f"Running '{argv[0]}' failed with exit code {returncode}"
            + (f": {said}" if said else "")
        )


def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    timeout: float = DEFAULT_TIMEOUT,
    check: bool = True,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run one program in the C locale and wait for it.

    :param input: bytes for its standard input; ``stdin`` gives a file instead, else /dev/null.
    :param stdout: a file for its standard output; captured when None.
    :param env: variables added to this process's own.
    :param timeout: seconds until it is killed.
    :param check: raise on an exit code other than 0.
    :raises ProgramError: it is missing, timed out, or (with ``check``) failed.
    """
    LOG.debug("run: %s", shlex.join(argv))
    full_env = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    source: Any = {"input": input} if input is not None else {"stdin": stdin or subprocess.DEVNULL}
    try:
        done = subprocess.run(
            list(argv),
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            env=full_env,
            cwd=cwd,
            timeout=timeout,
            pass_fds=tuple(pass_fds),
            check=False,
            **source,
        )
    except FileNotFoundError as exc:
        raise ProgramError(argv, 127, "the program is not installed") from exc
    except OSError as exc:
        raise refused_by_host(f"Running {argv[0]!r}", exc) from exc
    except subprocess.TimeoutExpired as exc:
        raise ProgramError(argv, -9, f"no end after {timeout:g} s") from exc
    result = Completed(done.returncode, done.stdout or b"", done.stderr.decode("utf-8", "replace"))
    if check and done.returncode != 0:
        raise ProgramError(argv, done.returncode, result.stderr)
    return result
