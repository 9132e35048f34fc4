# SPDX-License-Identifier: Apache-2.0
"""Every path and every host-visible name that the daemon makes, so that an auditor can list them.

The layout below ``LXD_DIR`` is LXD's own (doc: "The LXD_DIR directory").
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PROJECT = "default"
DEFAULT_LXD_DIR = "/var/lib/lxd"


def storage_name(project: str, name: str) -> str:
    """LXD's on-disk name of an instance or volume: plain in project default, else PROJECT_NAME."""
    return name if project == DEFAULT_PROJECT else f"{project}_{name}"


def split_storage_name(stored: str) -> tuple[str, str]:
    """The inverse of :func:`storage_name`: (project, name).  Names never hold an underscore."""
    project, sep, name = stored.rpartition("_")
    return (project, name) if sep else (DEFAULT_PROJECT, stored)


def random_veth_name() -> str:
    """A fresh host-side interface name in LXD's style (``veth`` and 8 hex digits)."""
    return "veth" + secrets.token_hex(4)


@dataclass(frozen=True)
class Paths:
    """Paths below one LXD_DIR; two daemons with different roots never share a name."""

    root: Path

    @classmethod
    def from_environment(cls) -> Paths:
        """The paths of ``$LXD_DIR``, /var/lib/lxd when unset."""
        given = os.environ.get("LXD_DIR") or DEFAULT_LXD_DIR
        # Symlinks stay as given: liblxc's command sockets are found by this very text.
        return cls(Path(os.path.normpath(Path.cwd() / given)))

    @property
    def tag(self) -> str:
        """Eight hex digits that mark this daemon's cgroups and nftables tables on the host."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:8]

    @property
    def socket(self) -> Path:
        return self.root / "unix.socket"

    @property
    def server_cert(self) -> Path:
        return self.root / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.root / "server.key"

    @property
    def database(self) -> Path:
        return self.root / "database" / "nova-lxd.db"

    @property
    def pools(self) -> Path:
        return self.root / "storage-pools"

    def pool(self, pool: str) -> Path:
        return self.pools / pool

    def veth_names(self, project: str, name: str, device: str) -> tuple[str, str]:
        """The (host, inner) ends of a nic's veth pair.

        They follow from the nic, so that a pair is found again after a crash that came before
        its name was recorded.
        """
        nic = f"{self.tag} {project} {name} {device}"
        digits = hashlib.sha256(nic.encode()).hexdigest()[:8]
        return f"veth{digits}", f"vnic{digits}"

    @property
    def disks(self) -> Path:
        """Loop files of the pools that own one (``NAME.img``)."""
        return self.root / "disks"

    @property
    def containers(self) -> Path:
        return self.root / "containers"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, project: str, name: str) -> Path:
        return self.logs / storage_name(project, name)

    @property
    def devices(self) -> Path:
        return self.root / "devices"

    def instance_devices(self, project: str, name: str) -> Path:
        """Device nodes and sources of mounts of one running instance."""
        return self.devices / storage_name(project, name)

    @property
    def shmounts(self) -> Path:
        return self.root / "shmounts"

    @property
    def devlxd(self) -> Path:
        return self.root / "devlxd"

    @property
    def networks(self) -> Path:
        return self.root / "networks"

    def network(self, name: str) -> Path:
        return self.networks / name

    @property
    def security(self) -> Path:
        """Generated seccomp policies and AppArmor profiles."""
        return self.root / "security"

    @property
    def run(self) -> Path:
        """liblxc's lxcpath; per-instance run-time files (configuration, hooks' notes, mounts)."""
        return self.root / "run"

    def instance_run(self, project: str, name: str) -> Path:
        return self.run / storage_name(project, name)

    def pause_note(self, project: str, name: str) -> Path:
        """Is there while the daemon itself holds a running instance still."""
        return self.instance_run(project, name) / "paused"

    def rootfs_mount(self, project: str, name: str) -> Path:
        """Where the idmapped root file system of a running instance is mounted."""
        return self.instance_run(project, name) / "rootfs"

    @property
    def cgroup(self) -> str:
        """``lxc.cgroup.dir`` of this daemon's containers."""
        return f"nova-lxd-{self.tag}"
