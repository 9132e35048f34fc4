# SPDX-License-Identifier: Apache-2.0
"""Every path below the state directory and every name the cloud makes on the host."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE = Path("/var/lib/nova-lxd-cloud")
REPOSITORY = Path(__file__).resolve().parents[2]

EXTERNAL_BRIDGE = "br-ex"
INTEGRATION_BRIDGE = "br-int"
UNDERLAY_BRIDGE = "br-hosts"
BRIDGES = (EXTERNAL_BRIDGE, INTEGRATION_BRIDGE, UNDERLAY_BRIDGE)
SYSTEMD_UNITS = Path("/etc/systemd/system")


@dataclass(frozen=True)
class Layout:
    """Paths of one cloud; nothing outside ``state`` is written, except systemd units."""

    state: Path

    @property
    def settings(self) -> Path:
        return self.state / "cloud.json"

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def done(self) -> Path:
        """One stamp file per finished step."""
        return self.state / "done"

    @property
    def units(self) -> Path:
        """One JSON file per service, read by the supervisor."""
        return self.state / "units"

    @property
    def shims(self) -> Path:
        """Small programs that stand in for ones this cloud must not need (sudo, mount.nfs)."""
        return self.state / "bin"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def tag(self) -> str:
        """Names this cloud among others on the host: empty for the default state directory."""
        if self.state == DEFAULT_STATE:
            return ""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:6]

    @property
    def unit_prefix(self) -> str:
        return "nova-lxd-cloud-" + (f"{self.tag}-" if self.tag else "")

    def make(self) -> None:
        """Create the directories; other users may pass through, but not list, the top one."""
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o711)
        for path in (self.etc, self.log, self.done, self.units, self.shims, self.images):
            path.mkdir(exist_ok=True)
        for path in (self.etc, self.done, self.units):
            path.chmod(0o700)
        self.run.mkdir(exist_ok=True)
        self.run.chmod(0o755)
        self.log.chmod(0o755)


def write_private(path: Path, text: str, mode: int = 0o600) -> bool:
    """Write ``text`` to ``path`` by rename, never readable by others meanwhile.

    Returns whether the content changed.
    """
    if path.is_file() and path.read_text() == text:
        path.chmod(mode)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # Steps that run side by side may write the same file: each has a temporary of its own.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True
