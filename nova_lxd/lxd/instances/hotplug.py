# SPDX-License-Identifier: Apache-2.0
"""Devices that come to, change on and go from a running instance."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from nova_lxd.lxd.devices.interface import Device, Mount, Nic, RunConfig
from nova_lxd.lxd.errors import BadRequest, LXDError
from nova_lxd.lxd.host import cgroup_settings as cs
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.host.liblxc.running import Running
from nova_lxd.lxd.instances import startconfig
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.network import links
from nova_lxd.lxd.network.netlink import Netlink

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


def plug(svc: Instances, inst: Instance, device: Device, undo: ExitStack) -> RunConfig:
    """Start a device and give it to the running instance; undone by ``undo``.

    :raises BadRequest: this kind of device cannot be added to a running instance.
    """
    running = _running(inst)
    if not device.can_hotplug:
        raise BadRequest(
            f'Device "{device.name}" cannot be added while the instance runs; stop it first'
        )
    undo.callback(_undo, device)
    run = device.start()
    root = device.instance.root_ids
    if not inst.idmap:
        _rules(svc, inst, run.device_rules, allow=True)
    for mount in run.mounts:
        _mount(svc, running, mount, root)
        undo.callback(_unmount, svc, running, mount, root)
    for nic in run.nics:
        _attach(running, nic)
    if run.block_limits and (group := svc.cgroup(inst)) is not None:
        group.apply(cs.disk_throttles(startconfig.throttles([run])))
    device.post_start()
    return run


def unplug(svc: Instances, inst: Instance, device: Device) -> dict[str, str | None]:
    """Take a device from the running instance; the volatile keys to record.

    :raises BadRequest: this kind of device cannot be removed from a running instance.
    """
    running = _running(inst)
    if not device.can_hotplug:
        raise BadRequest(
            f'Device "{device.name}" cannot be removed while the instance runs; stop it first'
        )
    back = device.stop()
    for mount in reversed(back.mounts):
        _unmount(svc, running, mount, device.instance.root_ids)
    if not inst.idmap:
        _rules(svc, inst, back.device_rules, allow=False)
    return {**back.volatile, **device.post_stop()}


def _running(inst: Instance) -> Running:
    if inst.running is None:
        raise BadRequest("Instance is not running")
    return inst.running


def _undo(device: Device) -> None:
    try:
        device.post_stop()
    except (LXDError, OSError):
        LOG.exception("Undoing the start of device %s failed", device.name)


def _mount(svc: Instances, running: Running, mount: Mount, root: tuple[int, int]) -> None:
    fd = mounts.clone(mount.source, recursive=mount.recursive, readonly=mount.readonly)
    try:
        svc.ctx.liblxc.mount(
            running.init, fd, mount.target, directory=mount.directory, root=root
        )
    finally:
        os.close(fd)


def _unmount(svc: Instances, running: Running, mount: Mount, root: tuple[int, int]) -> None:
    node = not mount.directory and _is_node(mount)
    try:
        svc.ctx.liblxc.unmount(running.init, mount.target, remove=node, root=root)
    except OSError as exc:
        # The guest unmounted or removed it itself, or has ended.
        if exc.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.ESRCH):
            raise


def _is_node(mount: Mount) -> bool:
    try:
        mode = mount.source.stat().st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _attach(running: Running, nic: Nic) -> None:
    links.move_in(nic.link, running.init, nic.name)
    with Netlink.of_process(running.init) as inside:
        link = inside.link(nic.name)
        inside.set_link(link.index, up=True)
        for address in nic.addresses:
            inside.add_address(link.index, address)
        for gateway in nic.gateways:
            inside.add_gateway(gateway, link.index)


def _rules(svc: Instances, inst: Instance, rules: list[str], *, allow: bool) -> None:
    group = svc.cgroup(inst)
    if group is None:
        return
    for rule in rules:
        if group.layout.version("devices") == 1:
            group.apply([cs.device(rule, allow=allow)])
        else:
            key = f"devices.{'allow' if allow else 'deny'}"
            svc.ctx.liblxc.set_cgroup_item(inst.stored_name, svc.ctx.paths.run, key, rule)
