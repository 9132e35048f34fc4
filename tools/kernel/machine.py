# SPDX-License-Identifier: Apache-2.0
"""A machine of User Mode Linux: its disk, what it shares with the host, and one boot of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
KERNEL = "linux.uml"
MEMORY = "1500M"


class MachineError(Exception):
    """The machine could not be made or did not do its task; the message says which and why."""


def build_image(kind: str) -> list[Path]:
    """The artifacts of an image of tools/images."""
    done = subprocess.run(
        [TOOLS / "images/build", kind], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MachineError(done.stderr.strip())
    return [Path(line) for line in done.stdout.split()]


def compiled_shim(directory: Path) -> Path:
    """The library that lets the kernel run on processors with AMX; see xstate.c."""
    shim = directory / "xstate.so"
    source = Path(__file__).with_name("xstate.c")
    done = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-o", shim, source],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MachineError(f"Compiling {source.name} failed: {done.stderr.strip()}")
    return shim


@dataclass(frozen=True)
class Machine:
    """``directory`` is for its files and, as /run/task in it, what it and the host exchange.

    :param disk: it is not changed: what the machine writes goes to a file of differences, which
        the next boot finds again.
    :param shares: directories of the host that it sees, read-only, at their own places.
    """

    directory: Path
    disk: Path
    shares: Sequence[Path]

    @property
    def task(self) -> Path:
        """The directory that both can write to."""
        return self.directory / "task"

    def _command(self) -> list[str]:
        words = [f"share={path}" for path in self.shares]
        # Words that the kernel does not know are init's, where systemd ignores them.
        return [
            KERNEL,
            f"ubd0={self.directory / 'changes'},{self.disk}",
            "root=/dev/ubda",
            "rw",
            "security=apparmor",
            f"mem={MEMORY}",
            f"umid=nova-lxd-{os.getpid()}",
            f"uml_dir={self.directory}/",
            "con=null",
            "con0=null,fd:1",
            "systemd.show_status=1",
            *words,
            f"task={self.task}",
        ]

    def boot(self, script: str, console: Path, seconds: float) -> None:
        """Boot, run a shell script as /run/task/task in it and wait until it has gone down.

        :param console: gets what the kernel and systemd print.
        :raises MachineError: it does not go down by itself in time.
        """
        self.task.mkdir(exist_ok=True)
        (self.task / "task").write_text(script, encoding="utf-8")
        environment = {**os.environ, "LD_PRELOAD": str(compiled_shim(self.directory))}
        # The kernel can wait for a pipe but not for a file.
        with console.open("ab") as out:
            printer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out)
            assert printer.stdin is not None
            process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=printer.stdin,
                stderr=printer.stdin,
                env=environment,
                start_new_session=True,
            )
            printer.stdin.close()
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired as exc:
                raise MachineError(
                    f"The machine did not end within {seconds:.0f} s; see {console}"
                ) from exc
            finally:
                # Its own processes are processes of the host; whoever is left goes with it.
                _end_session(process)
                printer.wait()


def _end_session(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
