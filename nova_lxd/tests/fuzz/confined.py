# SPDX-License-Identifier: Apache-2.0
"""A daemon that can write nowhere but in its state directory, so that every attempt shows."""

from __future__ import annotations

import re
from pathlib import Path

from nova_lxd.tests.functional.daemon import Daemon

# The kernel's, and tmpfs mounts of the sandbox, whose files are listed in the end.
_LEFT_WRITABLE = ("/proc", "/sys", "/dev")
_SCRATCH = "/var/tmp"
_LISTED = ("/run", "/var/log", _SCRATCH)
# Lock files of liblxc, and of mount(8).
_KNOWN = re.compile(r"/run/(lxc|lock|mount)(/.*)?")
_REFUSED = re.compile(r".*(?:Read-only file system|Errno 30).*")


class ConfinedDaemon(Daemon):
    """Everything outside ``lxd_dir`` is mounted read-only in its namespace."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"TMPDIR": _SCRATCH}

    def start(self) -> None:
        self._close_host()
        super().start()

    def _close_host(self) -> None:
        state = str(self.lxd_dir)
        self.inside("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", _SCRATCH)
        self.inside("mount", "--bind", state, state)
        lines = self.inside("cat", "/proc/self/mountinfo").stdout.splitlines()
        for place in dict.fromkeys(line.split()[4] for line in lines):
            if place == state or _below(place, (*_LEFT_WRITABLE, *_LISTED)):
                continue
            self.inside("mount", "-o", "remount,bind,ro", place)

    def outside(self) -> list[str]:
        """Files that the daemon made outside, and its attempts that were refused."""
        listed = self.inside("find", *_LISTED, "-mindepth", "1", "-xdev").stdout.splitlines()
        found = [path for path in listed if not _KNOWN.fullmatch(path)]
        log = self.log.read_text(encoding="utf-8", errors="replace")
        return found + [line[:300] for line in _REFUSED.findall(log)]


def _below(place: str, tops: tuple[str, ...]) -> bool:
    return any(Path(place).is_relative_to(top) for top in tops)
