# SPDX-License-Identifier: Apache-2.0
"""Device nodes for instances: made below ``devices/INSTANCE``, mounted at their place inside."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.lxd.devices.interface import InstanceView, Mount, RunConfig
from nova_lxd.lxd.errors import BadRequest

DEFAULT_MODE = 0o660


def encode(path: str) -> str:
    """A path as one file name, in LXD's way: ``/`` becomes ``-`` and ``-`` becomes ``--``."""
    return path.replace("-", "--").replace("/", "-")


@dataclass(frozen=True)
class Node:
    """A device node for an instance.

    :param kind: ``c`` or ``b``.
    :param target: absolute path inside.
    :param mode: permission bits.
    :param uid: owner inside.
    """

    kind: str
    major: int
    minor: int
    target: str
    mode: int = DEFAULT_MODE
    uid: int = 0
    gid: int = 0

    @property
    def rule(self) -> str:
        """The rule of the devices cgroup that allows it."""
        return f"{self.kind} {self.major}:{self.minor} rwm"


def kind_of(path: Path) -> tuple[str, int, int]:
    """(c or b, major, minor) of a device node of the host.

    :raises FileNotFoundError: nothing is there.
    :raises BadRequest: it is no device node.
    """
    info = path.stat()
    for kind, is_kind in (("c", stat.S_ISCHR), ("b", stat.S_ISBLK)):
        if is_kind(info.st_mode):
            return kind, os.major(info.st_rdev), os.minor(info.st_rdev)
    raise BadRequest(f"Using {path} as a device failed: it is no device node")


def _file(directory: Path, device: str, node: Node) -> Path:
    return directory / encode(f"unix.{device}.{node.target.lstrip('/')}")


def make(directory: Path, device: str, node: Node, instance: InstanceView) -> RunConfig:
    """Make a node for the device and say where it goes.

    :raises BadRequest: the instance's id map has no such owner.
    """
    uid, gid = node.uid, node.gid
    if instance.idmap:
        host_uid, host_gid = instance.idmap.host_uid(uid), instance.idmap.host_gid(gid)
        if host_uid is None or host_gid is None:
            raise BadRequest(
                f"Making device {node.target} failed: the instance's id map has no owner"
                f" {uid}:{gid}"
            )
        uid, gid = host_uid, host_gid
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    file = _file(directory, device, node)
    file.unlink(missing_ok=True)
    kind = stat.S_IFCHR if node.kind == "c" else stat.S_IFBLK
    try:
        os.mknod(file, kind | 0o600, os.makedev(node.major, node.minor))
        os.chown(file, uid, gid)
        file.chmod(node.mode)  # After chown, and not subject to the umask.
    except OSError:
        file.unlink(missing_ok=True)
        raise
    return RunConfig(mounts=[_mount(file, node.target)], device_rules=[node.rule])


def _mount(file: Path, target: str) -> Mount:
    return Mount(source=file, target=target, directory=False)


def _decode(name: str) -> str:
    """The inverse of :func:`encode`."""
    return re.sub("--|-", lambda found: "-" if found.group() == "--" else "/", name)


def made(directory: Path, device: str) -> list[Path]:
    """The nodes made for a device that are still there."""
    prefix = encode(f"unix.{device}.")
    return sorted(file for file in directory.glob("unix.*") if file.name.startswith(prefix))


def taken(directory: Path, device: str) -> RunConfig:
    """What an instance has to give back of the nodes made for a device."""
    run = RunConfig()
    for file in made(directory, device):
        kind, major, minor = kind_of(file)
        target = "/" + _decode(file.name.removeprefix(encode(f"unix.{device}.")))
        run.mounts.append(_mount(file, target))
        run.device_rules.append(f"{kind} {major}:{minor} rwm")
    return run


def remove(directory: Path, device: str) -> None:
    """Remove every node of a device; idempotent."""
    for file in made(directory, device):
        file.unlink(missing_ok=True)
