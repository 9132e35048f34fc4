# SPDX-License-Identifier: Apache-2.0
"""Devices that an instance gets, loses or has changed, whether it runs or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.devices.interface import InstanceView
from nova_lxd.lxd.devices.load import start_order
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.instances import deviceset, hotplug
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
Changes = dict[str, str | None]


@dataclass(frozen=True)
class DeviceDiff:
    """Which devices came, went, or changed in keys that can be changed on a running instance."""

    added: list[str]
    removed: list[str]
    updated: list[str]


def diff(
    svc: Instances, was: Expanded, now: Expanded, seen: InstanceView
) -> DeviceDiff:
    """Compare two sets of devices; one changed beyond what it can update is removed and added."""
    added, removed, updated = [], [], []
    for name in start_order(now.devices):
        old, new = was.devices.get(name), now.devices[name]
        if old == new:
            continue
        if old is None:
            added.append(name)
            continue
        changed = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
        device = deviceset.build(svc.ctx, name, new, seen)
        if changed <= {k for k in changed if k in device.updatable or k.startswith("user.")}:
            updated.append(name)
        else:
            removed.append(name)
            added.append(name)
    removed += [name for name in was.devices if name not in now.devices]
    return DeviceDiff(added, removed, updated)


def apply(
    svc: Instances,
    inst: Instance,
    record: InstanceRecord,
    was: Expanded,
    now: Expanded,
    undo: ExitStack,
) -> Changes:
    """Bring the devices from one configuration to another; the volatile keys to record.

    :param undo: gets what takes all back, for the case that it cannot be recorded.
    :raises BadRequest: a device cannot be changed so, or not while the instance runs.
    """
    old_view, new_view = _views(svc, inst, record, was, now)
    todo = diff(svc, was, now, new_view)
    changes: Changes = {}
    for name in reversed(todo.removed):
        changes.update(_remove(svc, inst, name, old_view, replaced=name in todo.added))
        undo.callback(_taken_back, inst, name, partial(_add, svc, inst, name, old_view))
    for name in todo.added:
        changes.update(_add(svc, inst, name, _with(new_view, changes)))
        seen = _with(new_view, changes)
        undo.callback(
            _taken_back, inst, name, partial(_remove, svc, inst, name, seen, replaced=True)
        )
    for name in todo.updated:
        before = deviceset.build(svc.ctx, name, was.devices[name], old_view)
        undo.callback(_taken_back, inst, name, partial(before.update, now.devices[name]))
        changes.update(_update(svc, inst, name, was.devices[name], _with(new_view, changes)))
    return changes


def settle(
    svc: Instances, inst: Instance, record: InstanceRecord, half_done: Expanded, wanted: Expanded
) -> Changes:
    """Bring the devices to what is wanted, from anywhere on the way there from ``half_done``.

    A daemon was killed on that way, in one direction or the other.  What fails with one device is
    logged and does not keep the others from it.  Returns the volatile keys to record.
    """
    old_view, new_view = _views(svc, inst, record, half_done, wanted)
    todo = diff(svc, half_done, wanted, new_view)
    changes: Changes = {}

    def remove(name: str, seen: InstanceView, *, replaced: bool) -> None:
        changes.update(_remove(svc, inst, name, seen, replaced=replaced))

    def add(name: str) -> None:
        changes.update(_add(svc, inst, name, _with(new_view, changes)))

    def update(name: str) -> None:
        old = half_done.devices[name]
        changes.update(_update(svc, inst, name, old, _with(new_view, changes)))

    for name in reversed(todo.removed):
        replaced = name in todo.added
        _taken_back(inst, name, partial(remove, name, old_view, replaced=replaced))
    for name in todo.added:
        # The kill may have come before it was taken away.
        _taken_back(inst, name, partial(remove, name, new_view, replaced=True))
        _taken_back(inst, name, partial(add, name))
    for name in todo.updated:
        _taken_back(inst, name, partial(update, name))
    return changes


def _views(
    svc: Instances, inst: Instance, record: InstanceRecord, was: Expanded, now: Expanded
) -> tuple[InstanceView, InstanceView]:
    """What devices may know of the instance before and after."""
    pid = inst.running.init if inst.running else None
    ids = inst.idmap if inst.is_running else svc.idmap_of(now.config)
    old = deviceset.view(svc.ctx, record, was, ids, pid)
    return old, deviceset.view(svc.ctx, record, now, ids, pid)


def _taken_back(inst: Instance, name: str, action: Callable[[], object]) -> None:
    """Undo the change of one device; what fails must not keep the others from it."""
    try:
        action()
    except (LXDError, OSError):
        LOG.exception("Taking back the change of device %s of %s failed", name, inst)


def _with(seen: InstanceView, changes: Changes) -> InstanceView:
    return replace(seen, config=deviceset.patched(seen.config, changes))


def _remove(
    svc: Instances, inst: Instance, name: str, seen: InstanceView, *, replaced: bool
) -> Changes:
    device = deviceset.build(svc.ctx, name, seen.devices[name], seen)
    changes: Changes = {}
    if inst.is_running:
        changes.update(deviceset.keys(name, hotplug.unplug(svc, inst, device)))
    device.remove()
    if not replaced:
        prefix = f"volatile.{name}."
        changes.update({key: None for key in seen.config if key.startswith(prefix)})
    return changes


def _add(svc: Instances, inst: Instance, name: str, seen: InstanceView) -> Changes:
    changes = deviceset.keys(name, deviceset.build(svc.ctx, name, seen.devices[name], seen).add())
    if inst.is_running:
        with ExitStack() as undo:
            full = _with(seen, changes)
            device = deviceset.build(svc.ctx, name, seen.devices[name], full)
            run = hotplug.plug(svc, inst, device, undo)
            changes.update(deviceset.keys(name, run.volatile))
            undo.pop_all()
    return changes


def _update(
    svc: Instances, inst: Instance, name: str, old: Mapping[str, str], seen: InstanceView
) -> Changes:
    run = deviceset.build(svc.ctx, name, seen.devices[name], seen).update(old)
    hotplug.limit_io(svc, inst, run)
    return deviceset.keys(name, run.volatile)
