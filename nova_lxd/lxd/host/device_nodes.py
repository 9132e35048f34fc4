# SPDX-License-Identifier: Apache-2.0
"""Device nodes for containers.

An unprivileged container cannot make device nodes, and none may be made on its file systems, so a
node is made on the host, owned by the container's ids, and bind-mounted inside: at the start by a
``lxc.mount.entry``, later through :meth:`.client.Zygote.mount`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import cgroup_settings
from nova_lxd.lxd.host.cgroup_settings import Setting
from nova_lxd.lxd.host.idmap import Idmap


@dataclass(frozen=True)
class Node:
    """A device; ``mode``, ``uid`` and ``gid`` are what the container sees."""

    kind: Literal["char", "block"]
    major: int
    minor: int
    mode: int = 0o660
    uid: int = 0
    gid: int = 0

    @property
    def rule(self) -> str:
        """Its line for the devices control group."""
        return f"{'c' if self.kind == 'char' else 'b'} {self.major}:{self.minor} rwm"

    def allow(self, allow: bool = True) -> Setting:
        """Permission to use it, for the devices control group of a running container (v1)."""
        return cgroup_settings.device(self.rule, allow=allow)


def of_path(path: str | Path) -> Node:
    """The device behind a node of the host, with the node's mode; it is root's.

    :raises FileNotFoundError: there is nothing.
    :raises BadRequest: it is not a device node.
    """
    found = Path(path).stat()
    if stat.S_ISCHR(found.st_mode):
        kind: Literal["char", "block"] = "char"
    elif stat.S_ISBLK(found.st_mode):
        kind = "block"
    else:
        raise BadRequest(f"Using '{path}' as a device failed: it is not a device node")
    number = found.st_rdev
    return Node(kind, os.major(number), os.minor(number), stat.S_IMODE(found.st_mode))


def make(path: Path, node: Node, idmap: Idmap) -> None:
    """Make the node on the host, to be mounted inside; whatever was at ``path`` is replaced.

    :raises BadRequest: the container has no such uid or gid.
    """
    uid, gid = idmap.host_uid(node.uid), idmap.host_gid(node.gid)
    if uid is None or gid is None:
        raise BadRequest(
            f"Making the device {path.name} failed: the container's id map has no "
            f"{node.uid}:{node.gid}"
        )
    kind = stat.S_IFCHR if node.kind == "char" else stat.S_IFBLK
    path.unlink(missing_ok=True)
    with contextlib.ExitStack() as undo:
        os.mknod(path, kind | 0o600, os.makedev(node.major, node.minor))
        undo.callback(path.unlink, missing_ok=True)
        os.chown(path, uid, gid)
        path.chmod(node.mode)
        undo.pop_all()


def mount_entry(source: Path, target: str) -> tuple[str, str]:
    """The liblxc configuration that shows a file or node of the host inside at the start."""
    return (
        "lxc.mount.entry",
        f"{escape(str(source))} {escape(target.lstrip('/'))} none bind,create=file 0 0",
    )


def escape(path: str) -> str:
    """A path for a mount entry, which is split at white space like a line of fstab."""
    for char in ("\\", " ", "\t", "\n"):
        path = path.replace(char, f"\\{ord(char):03o}")
    return path
