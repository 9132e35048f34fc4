# SPDX-License-Identifier: Apache-2.0
"""Devices that come to and go from a running instance."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from nova_lxd.lxd.devices import live
from nova_lxd.lxd.devices.interface import Device, RunConfig, Volatile
from nova_lxd.lxd.errors import BadRequest, Conflict, InternalError, LXDError
from nova_lxd.lxd.host import cgroup_settings as cs
from nova_lxd.lxd.host.liblxc.running import wait_end
from nova_lxd.lxd.instances import deviceset, startconfig
from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
# An ending process loses its namespaces and groups some moments before its end is told.
_ENDING = 0.5


@contextmanager
def outliving(inst: Instance) -> Iterator[None]:
    """Change a running instance within the block; what fails by its end is told as that.

    :raises Conflict: it ended meanwhile.
    """
    running = inst.running
    try:
        yield
    except (OSError, InternalError) as exc:
        if running is None:
            raise
        if inst.running is running and not wait_end(running.pidfd, _ENDING):
            raise
        raise Conflict(f"Changing {inst} failed: it ended meanwhile; try again") from exc


def plug(svc: Instances, inst: Instance, device: Device, undo: ExitStack) -> RunConfig:
    """Start a device and give it to the running instance; undone by ``undo``.

    :raises BadRequest: this kind of device cannot be added to a running instance.
    :raises InternalError: the kernel or the guest's tree refused it.
    """
    target = _target(svc, inst, device)
    if not device.can_hotplug:
        raise BadRequest(
            f'Device "{device.name}" cannot be added while the instance runs; stop it first'
        )
    undo.callback(_undo, device)
    with deviceset.starting(device.name):
        run = device.start()
    try:
        live.plug(run, target)
    except OSError as exc:
        raise InternalError(
            f'Failed to start device "{device.name}": {exc.strerror} ({exc.filename})'
        ) from exc
    undo.callback(live.unplug, run, target)
    limit_io(svc, inst, run)
    with deviceset.starting(device.name):
        device.post_start()
    return run


def unplug(svc: Instances, inst: Instance, device: Device) -> Volatile:
    """Take a device from the running instance; the volatile keys to record.

    :raises BadRequest: this kind of device cannot be removed from a running instance.
    """
    target = _target(svc, inst, device)
    if not device.can_hotplug:
        raise BadRequest(
            f'Device "{device.name}" cannot be removed while the instance runs; stop it first'
        )
    back = device.stop()
    live.unplug(back, target)
    return {**back.volatile, **device.post_stop()}


def limit_io(svc: Instances, inst: Instance, run: RunConfig) -> None:
    """Apply the I/O limits that a device asks for; 0 lifts one."""
    group = svc.cgroup(inst)
    if run.block_limits and group is not None:
        group.apply(cs.disk_throttles(startconfig.throttles([run])))


def _target(svc: Instances, inst: Instance, device: Device) -> live.Target:
    if inst.running is None:
        raise BadRequest("Instance is not running")
    return live.Target(
        inst.running.init,
        device.instance.root_ids,
        svc.ctx.liblxc,
        lambda rule: _rule(svc, inst, rule, allow=True),
        lambda rule: _rule(svc, inst, rule, allow=False),
    )


def _undo(device: Device) -> None:
    try:
        device.post_stop()
    except (LXDError, OSError):
        LOG.exception("Undoing the start of device %s failed", device.name)


def _rule(svc: Instances, inst: Instance, rule: str, *, allow: bool) -> None:
    """Let a privileged container use a node, or no longer; others are not held by rules."""
    group = svc.cgroup(inst)
    if group is None or inst.idmap:
        return
    if group.layout.version("devices") == 1:
        group.apply([cs.device(rule, allow=allow)])
    else:
        key = f"devices.{'allow' if allow else 'deny'}"
        svc.ctx.liblxc.set_cgroup_item(inst.stored_name, svc.ctx.paths.run, key, rule)
