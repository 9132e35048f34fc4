# SPDX-License-Identifier: Apache-2.0
"""Running programs inside an instance (LXD: ``POST /1.0/instances/NAME/exec``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nova_lxd.lxd.errors import BadRequest, TooLarge
from nova_lxd.lxd.host import cgroups, terminal
from nova_lxd.lxd.host.liblxc.client import Exec, Zygote
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.paths import Paths

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PREFIX = "environment."
# What the liblxc helper takes at once (zygote.MAX_REQUEST) with some room for the rest, in bytes;
# each word costs some more.
_MOST, _EACH = 960 * 1024, 8
# LXD takes these exit codes for its own, whoever ended with them.
_REFUSED = {126: "Command not executable", 127: "Command not found"}


@dataclass(frozen=True)
class Program:
    """What to run inside: ids are the container's."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int = 0
    group: int = 0
    cwd: str = ""

    def checked(self) -> Program:
        """:raises BadRequest: nothing to run, or a NUL byte in a word."""
        words = [*self.command, self.cwd, *self.environment, *self.environment.values()]
        if not self.command or not self.command[0]:
            raise BadRequest("Executing a command failed: no command was given")
        if any("\0" in word for word in words) or any("=" in key for key in self.environment):
            raise BadRequest("Executing a command failed: a word holds a NUL byte or a name '='")
        if not (0 <= self.user < 2**32 - 1 and 0 <= self.group < 2**32 - 1):
            raise BadRequest("Executing a command failed: user or group is out of range")
        return self

    def with_defaults(self, config: Mapping[str, str]) -> Program:
        """With the environment LXD gives: the instance's ``environment.*`` and root's basics.

        :raises TooLarge: it would be more than can be handed over.
        """
        env = {k[len(_PREFIX) :]: v for k, v in config.items() if k.startswith(_PREFIX)}
        env.update(self.environment)
        env.setdefault("PATH", _PATH)
        if self.user == 0:
            env.setdefault("HOME", "/root")
            env.setdefault("USER", "root")
        env.setdefault("LANG", "C.UTF-8")
        cwd = self.cwd or env.get("HOME") or "/"
        size = sum(
            len(word.encode("utf-8", "surrogateescape")) + _EACH
            for word in (*self.command, cwd, *env, *env.values())
        )
        if size > _MOST:
            raise TooLarge(
                f"Executing a command failed: its words and its environment are {size} bytes, "
                f"{_MOST} are possible; pass large data by standard input or a file"
            )
        return Program(self.command, env, self.user, self.group, cwd)


def refused(code: int) -> BadRequest | None:
    """What an operation fails with whose program could not be run, as its exit code tells."""
    return BadRequest(_REFUSED[code]) if code in _REFUSED else None


def require_running(instance: Instance) -> None:
    """:raises BadRequest: the instance does not run, or is frozen."""
    if not instance.is_running:
        raise BadRequest("Instance is not running")
    if instance.frozen:
        raise BadRequest("Instance is frozen")


class Executor:
    """Starts programs inside running instances."""

    def __init__(self, liblxc: Zygote, paths: Paths) -> None:
        self._liblxc = liblxc
        self._paths = paths

    def start(
        self, instance: Instance, program: Program, stdin: int, stdout: int, stderr: int
    ) -> Exec:
        """Start the program on the given descriptors, which stay the caller's.

        :raises BadRequest: the instance does not run.
        """
        return self._start(instance, program, (stdin, stdout, stderr))

    def start_on_terminal(
        self, instance: Instance, program: Program, rows: int, columns: int
    ) -> tuple[Exec, int]:
        """Start it on a new terminal of the container; returns it and the terminal's master."""
        require_running(instance)
        assert instance.running is not None
        root = (instance.idmap.host_uid(0) or 0, instance.idmap.host_gid(0) or 0)
        with ExitStack() as undo:
            master, slave = terminal.open_pty(instance.running.init, root)
            undo.callback(os.close, master)
            with os.fdopen(slave, "rb", buffering=0):
                if rows and columns:
                    terminal.resize(master, rows, columns)
                process = self._start(instance, program, (slave, slave, slave))
            undo.pop_all()
        return process, master

    def _start(self, instance: Instance, program: Program, fds: tuple[int, int, int]) -> Exec:
        require_running(instance)
        return self._liblxc.exec(
            instance.stored_name,
            self._paths.run,
            program.command,
            stdin=fds[0],
            stdout=fds[1],
            stderr=fds[2],
            env=program.environment,
            uid=program.user,
            gid=program.group,
            cwd=program.cwd,
            leaf=self._leaf(instance),
        )

    def _leaf(self, instance: Instance) -> tuple[Path, int, int] | None:
        """The control group of programs, to be made by the container's root."""
        root = instance.idmap.host_uid(0), instance.idmap.host_gid(0)
        group = f"{self._paths.cgroup}/lxc.payload.{instance.stored_name}"
        path = cgroups.layout().leaf(group)
        if path is None or root[0] is None or root[1] is None:
            return None
        return path, root[0], root[1]

    def run(
        self,
        instance: Instance,
        program: Program,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> int:
        """Run it without input to its end; returns the exit code (128 + signal when killed)."""
        with open(os.devnull, "r+b", buffering=0) as null:
            out = (stdout or null).fileno()
            err = (stderr or null).fileno()
            process = self.start(instance, program, null.fileno(), out, err)
        return process.wait()
