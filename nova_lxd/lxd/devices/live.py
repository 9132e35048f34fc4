# SPDX-License-Identifier: Apache-2.0
"""Gives a running instance what a device's RunConfig says, and takes it back again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from nova_lxd.lxd.devices.interface import Mount, Nic, RunConfig
from nova_lxd.lxd.host import syscalls
from nova_lxd.lxd.network import links


class Mounter(Protocol):
    """The verbs of the liblxc helper that act inside a running container."""

    def mount(
        self,
        pid: int,
        mount_fd: int,
        target: str,
        *,
        directory: bool,
        root: tuple[int, int] = (0, 0),
        mode: int = 0o755,
    ) -> None: ...

    def unmount(
        self, pid: int, target: str, *, remove: bool = False, root: tuple[int, int] = (0, 0)
    ) -> None: ...


@dataclass(frozen=True)
class Target:
    """A running instance.

    :param init: its init process.
    :param root: host uid and gid of its root.
    :param allow: applies a rule of the devices cgroup such as ``c 10:200 rwm``.
    :param deny: takes such a rule back.
    """

    init: int
    root: tuple[int, int]
    mounter: Mounter
    allow: Callable[[str], None]
    deny: Callable[[str], None]


def plug(run: RunConfig, target: Target) -> None:
    """Give a started device to the running instance; on failure it has nothing of it.

    I/O limits and ``volatile`` are left to the caller.

    :raises OSError: the instance cannot take it; the path or interface is in the message.
    """
    with ExitStack() as undo:
        for rule in run.device_rules:
            target.allow(rule)
            undo.callback(target.deny, rule)
        for mount in run.mounts:
            _mount(mount, target)
            undo.callback(_unmount, mount, target)
        for nic in run.nics:
            plug_nic(nic, target.init)
            undo.callback(links.take_back, target.init, nic.name, nic.link)
        undo.pop_all()


def unplug(run: RunConfig, target: Target) -> None:
    """Take back what :meth:`Device.stop` named; what is gone already is passed over."""
    for mount in run.mounts:
        _unmount(mount, target)
    for rule in run.device_rules:
        target.deny(rule)


def _mount(mount: Mount, target: Target) -> None:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    if mount.recursive:
        flags |= syscalls.AT_RECURSIVE
    # A copy of the mount that the device made ready keeps its map of owners, its being read-only
    # and its propagation.
    fd = syscalls.open_tree(syscalls.AT_FDCWD, str(mount.source), flags)
    try:
        target.mounter.mount(
            target.init, fd, mount.target, directory=mount.directory, root=target.root
        )
    finally:
        os.close(fd)


def _unmount(mount: Mount, target: Target) -> None:
    # What was made for the mount goes too, as with LXD, unless something else is in it by now.
    # EINVAL, ENOENT: the instance has unmounted or removed it itself.
    try:
        target.mounter.unmount(target.init, mount.target, remove=True, root=target.root)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOENT, errno.ESRCH):
            raise


def plug_nic(nic: Nic, init: int) -> None:
    """Move an interface into a running instance under its name there.

    As with LXD it arrives down and without addresses: what is inside configures what is plugged.

    :raises OSError: EEXIST when the instance has an interface of this name.
    """
    links.move_in(nic.link, init, nic.name)
