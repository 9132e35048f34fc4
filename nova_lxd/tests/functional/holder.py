# SPDX-License-Identifier: Apache-2.0
"""First process of a sandbox: prepares its mounts, says "ready", then reaps for ever."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SYS = Path("/sys")
CGROUPS = SYS / "fs/cgroup"
HOSTNAME = "functional"


def _mount(*args: str) -> None:
    subprocess.run(["mount", *args], check=True, stdin=subprocess.DEVNULL)


def _cgroup_mounts() -> list[tuple[str, str]]:
    """(directory name, mount options) of the v1 hierarchies; the v2 one has type cgroup2."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, right = line.split(" - ")
        target = Path(left.split()[4])
        kind, _source, options = right.split()
        if kind == "cgroup2":
            found.append((target.name, ""))
        elif kind == "cgroup":
            kept = [word for word in options.split(",") if word not in ("rw", "ro")]
            found.append((target.name, ",".join(kept)))
    return found


def _mount_cgroups(v2_only: bool, mounts: list[tuple[str, str]]) -> None:
    """Mount them afresh: seen from this cgroup namespace our cgroup is their root."""
    if v2_only:
        _mount("-t", "cgroup2", "cgroup2", str(CGROUPS))
        return
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(CGROUPS))
    # in a sandbox within a sandbox each is listed twice: the outer one's, covered, as well
    for name, options in dict(mounts).items():
        (CGROUPS / name).mkdir()
        if options:
            _mount("-t", "cgroup", "-o", options, "cgroup", str(CGROUPS / name))
        else:
            _mount("-t", "cgroup2", "cgroup2", str(CGROUPS / name))


def _end_with_parent() -> None:
    """End, and the namespace with us, once whoever holds our standard input is gone."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    v2_only = (CGROUPS / "cgroup.controllers").exists()
    mounts = _cgroup_mounts()
    _mount("-t", "proc", "proc", "/proc")
    # A sysfs mounted in this network namespace shows this namespace's links.
    _mount("-t", "sysfs", "sysfs", str(SYS))
    _mount_cgroups(v2_only, mounts)
    # Daemons keep things below these; nothing of ours may be seen by others or theirs by us.
    for directory in ("/run", "/var/log"):
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", directory)
    Path("/run/lock").mkdir(mode=0o1777)
    socket.sethostname(HOSTNAME)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, stdin=subprocess.DEVNULL)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
