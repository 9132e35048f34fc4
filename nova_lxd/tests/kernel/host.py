# SPDX-License-Identifier: Apache-2.0
"""The machine that the tests run in, used as its administrator does."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from nova_lxd.lxd.paths import Paths

LXD_DIR = Path("/var/lib/nova-lxd")
PATHS = Paths(LXD_DIR)
SERVICES = ("nova-lxd.service", "nova-lxd-containers.service")
CGROUPS = Path("/sys/fs/cgroup")


def run(
    *argv: str | Path, check: bool = True, input: str | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program; AssertionError with what it said when it fails."""
    words = [str(word) for word in argv]
    feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    done = subprocess.run(
        words,
        **feed,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "LXD_DIR": str(LXD_DIR)},
    )
    if check:
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, f"{shlex.join(words)} exited {done.returncode}: {said}"
    return done


def lxc(*args: str, check: bool = True, input: str | None = None) -> str:
    """stdout of Debian's ``lxc``; with ``check`` off its stderr when it fails."""
    done = run("lxc", *args, check=check, input=input)
    return done.stdout if done.returncode == 0 else done.stderr


def refused(*args: str) -> str:
    """stderr of an ``lxc`` call that must fail."""
    done = run("lxc", *args, check=False)
    assert done.returncode != 0, f"lxc {shlex.join(args)} was accepted: {done.stdout}"
    return done.stderr.strip()


def query(path: str) -> Any:
    """The metadata of a GET."""
    return json.loads(lxc("query", path))


def state(name: str) -> dict[str, Any]:
    """GET /1.0/instances/NAME/state."""
    found: dict[str, Any] = query(f"/1.0/instances/{name}/state")
    return found


def init_pid(name: str) -> int:
    """The pid of a running container's first process."""
    return int(state(name)["pid"])


def cgroup(name: str) -> Path:
    """The directory of a running container's control group."""
    text = Path(f"/proc/{init_pid(name)}/cgroup").read_text(encoding="ascii").strip()
    assert text.startswith("0::/"), f"not cgroup v2 alone: {text}"
    for part in (path := CGROUPS / text[4:], *path.parents):
        if part.name.startswith("lxc.payload."):
            return part
    raise AssertionError(f"{name} is in no group of liblxc: {text}")


def knob(name: str, file: str) -> str:
    """A file of a running container's control group."""
    return (cgroup(name) / file).read_text(encoding="ascii").strip()


def unit(name: str, *properties: str) -> dict[str, str]:
    """Properties of a systemd unit."""
    done = run("systemctl", "show", name, *(f"--property={key}" for key in properties))
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def journal(*args: str) -> str:
    """Lines of the journal, of all boots."""
    return run("journalctl", "--no-pager", "--output=short-monotonic", *args).stdout
