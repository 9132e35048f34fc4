# SPDX-License-Identifier: Apache-2.0
"""Changing an instance: what is new is checked, applied to the running one, and recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.profiles import Devices
from nova_lxd.lxd.devices.interface import InstanceView
from nova_lxd.lxd.devices.load import start_order
from nova_lxd.lxd.errors import BadRequest, InternalError, LXDError
from nova_lxd.lxd.host import modules
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.lxd.images import architectures
from nova_lxd.lxd.instances import (
    confine,
    create,
    deviceset,
    guestapi,
    hotplug,
    idmaps,
    limits,
    netpriority,
    processors,
)
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.schema import instancekeys
from nova_lxd.lxd.schema.configkeys import given

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
Changes = dict[str, str | None]

# The daemon's memory of where a tree's ids are; without it the instance could not be started.
_PROTECTED = ("volatile.idmap.base", "volatile.idmap.next", "volatile.last_state.idmap")
# What only the daemon may say of a running instance.
_RUNNING_KEYS = ("volatile.idmap.current", "volatile.last_state.power")
_RUNNING_SUFFIXES = (".host_name",)
_IDMAP_KEYS = frozenset(
    (
        "raw.idmap",
        "security.idmap.base",
        "security.idmap.isolated",
        "security.idmap.size",
        "security.privileged",
    )
)

# AppArmor's rules follow from these; a loaded profile can be replaced at any time.
_CONFINING_KEYS = frozenset(("raw.apparmor", "security.nesting"))


@dataclass(frozen=True)
class Wanted:
    """What the changeable part of an instance shall be."""

    architecture: str
    config: dict[str, str]
    devices: Devices
    description: str
    ephemeral: bool
    profiles: list[str] = field(default_factory=list)


def current(record: InstanceRecord) -> Wanted:
    """The changeable part as it is."""
    return Wanted(
        record.architecture,
        dict(record.config),
        record.devices,
        record.description,
        record.ephemeral,
        list(record.profiles),
    )


def without_empty(devices: Mapping[str, Mapping[str, str]]) -> Devices:
    """Devices without the keys whose value is empty: that is how clients unset one."""
    return {name: given(device) for name, device in devices.items()}


def update(svc: Instances, inst: Instance, wanted: Wanted) -> None:
    """Make an instance what is wanted; a running one follows where that is possible.

    The caller holds the instance's lock.

    :raises BadRequest: something is wrong or cannot be changed; nothing is recorded then.
    """
    record = svc.record(inst)
    config = _checked_config(inst, record, wanted.config)
    if wanted.architecture != record.architecture and (
        wanted.architecture not in architectures.runnable()
    ):
        raise BadRequest(f"Architecture isn't supported: {wanted.architecture[:32]}")
    instancekeys.validate(config)
    if len(set(wanted.profiles)) != len(wanted.profiles):
        raise BadRequest("Duplicate profile found in request")
    devices = without_empty(wanted.devices)
    expander = svc.expander()
    was = expander.expand(record.project, record.profiles, record.config, record.devices)
    now = expander.expand(record.project, wanted.profiles, config, devices)
    with ExitStack() as undo:
        changes = apply(svc, inst, record, was, now, undo)
        db_instances.update(
            svc.ctx.db,
            inst.id,
            architecture=wanted.architecture,
            config=deviceset.patched(config, changes),
            devices=devices,
            description=wanted.description,
            ephemeral=wanted.ephemeral,
            profiles=wanted.profiles,
        )
        undo.pop_all()
    processors.rebalance(svc)
    tell_guest(svc, inst, was, now)


def tell_guest(svc: Instances, inst: Instance, was: Expanded, now: Expanded) -> None:
    """Publish on /dev/lxd what changed of what the guest may see; after it was recorded."""
    if inst.is_running:
        guestapi.announce_config(svc.ctx.events, inst.id, was.config, now.config)
        guestapi.announce_devices(svc.ctx.events, inst.id, was.devices, now.devices)


def _checked_config(
    inst: Instance, record: InstanceRecord, config: Mapping[str, str]
) -> dict[str, str]:
    """The new configuration without empty values and with what only the daemon may say."""
    clean = given(config)
    for key in _PROTECTED:
        if key not in clean and record.config.get(key):
            raise BadRequest("Volatile idmap keys can't be deleted by the user")
    if inst.is_running:
        for key, value in record.config.items():
            own = key in _RUNNING_KEYS or (
                key.startswith("volatile.") and key.endswith(_RUNNING_SUFFIXES)
            )
            if own:
                clean[key] = value
    return clean


def apply(
    svc: Instances,
    inst: Instance,
    record: InstanceRecord,
    was: Expanded,
    now: Expanded,
    undo: ExitStack,
) -> Changes:
    """Bring devices and the running container from one configuration to another.

    Returns the volatile keys to record with the new configuration (recorded already when devices
    were touched: a device finds itself by them).

    :param undo: gets what takes all back, for the case that it cannot be recorded.
    :raises BadRequest: the new configuration is wrong, or cannot be applied while it runs.
    """
    create.check_expanded(svc, record.project, record.name, now)
    _check_root(was, now)
    changes: Changes = {}
    keys = {
        key
        for key in was.config.keys() | now.config.keys()
        if was.config.get(key) != now.config.get(key) and not key.startswith("volatile.")
    }
    if keys & _IDMAP_KEYS:
        changes.update(_next_idmap(svc, inst, now))
    with hotplug.outliving(inst):
        if inst.is_running:
            _apply_keys(svc, inst, was.config, now.config, keys, undo)
        changes.update(_apply_devices(svc, inst, record, was, now, undo))
        if inst.is_running:
            svc.nodes.follow(inst, now.devices)
    if changes:
        db_instances.set_config(svc.ctx.db, inst.id, changes)
    return changes


def _check_root(was: Expanded, now: Expanded) -> None:
    old, new = was.root, now.root
    if old is None or new is None:
        return
    if old[1]["pool"] != new[1]["pool"]:
        raise BadRequest(
            "Cannot update root disk device: The storage pool of the root disk can only be "
            "changed through move"
        )


def _next_idmap(svc: Instances, inst: Instance, now: Expanded) -> Changes:
    with svc.isolated_lock:
        used = svc.isolated_ranges(now, inst.id)
        ids, base = idmaps.choose(svc.ctx.ids, now.config, used)
        changes: Changes = {
            "volatile.idmap.base": str(base),
            "volatile.idmap.next": ids.to_json(),
        }
        db_instances.set_config(svc.ctx.db, inst.id, changes)
    return changes


def _apply_keys(
    svc: Instances,
    inst: Instance,
    was: Mapping[str, str],
    now: Mapping[str, str],
    keys: set[str],
    undo: ExitStack,
) -> None:
    """Let the running container follow changed keys of its configuration."""
    if "linux.kernel_modules" in keys:
        modules.load(now.get("linux.kernel_modules", ""))
    _apply_limits(svc, inst, was, now, keys, undo)
    if keys & _CONFINING_KEYS:
        _confine(svc, inst, was, now, undo)


def _apply_limits(
    svc: Instances,
    inst: Instance,
    was: Mapping[str, str],
    now: Mapping[str, str],
    keys: set[str],
    undo: ExitStack,
) -> None:
    """Write changed limits into the running container."""
    group = svc.cgroup(inst)
    settings = limits.changed(now, keys)
    if group is None:
        return
    if settings:
        undo.callback(_restore_limits, svc, inst, was, keys)
        try:
            group.apply(settings)
        except OSError as exc:
            raise InternalError(
                f"Applying limits to {inst} failed: {exc.filename}: {exc.strerror}; the value may "
                "be below what is in use"
            ) from exc
    if netpriority.KEY in keys:
        netpriority.apply(group, now)
        undo.callback(_restore_priority, inst, group, was)
    if "limits.cpu" in keys:
        # Taken into account by the next rebalance, which follows once all is recorded.
        svc.cpus.setdefault(inst.id, "")


def _confine(
    svc: Instances,
    inst: Instance,
    was: Mapping[str, str],
    now: Mapping[str, str],
    undo: ExitStack,
) -> None:
    """Replace the AppArmor profile under the running container."""
    where = (svc.ctx, inst.project, inst.name)
    undo.callback(confine.reload, *where, was, inst.idmap)
    confine.reload(*where, now, inst.idmap)


def _restore_limits(
    svc: Instances, inst: Instance, was: Mapping[str, str], keys: set[str]
) -> None:
    group = svc.cgroup(inst)
    if group is not None:
        try:
            group.apply(limits.changed(was, keys))
        except OSError:
            LOG.exception("Restoring the limits of %s failed", inst)


def _restore_priority(inst: Instance, group: Cgroup, was: Mapping[str, str]) -> None:
    try:
        netpriority.apply(group, was)
    except (InternalError, OSError):
        LOG.exception("Restoring the network priority of %s failed", inst)


@dataclass(frozen=True)
class DeviceDiff:
    """Which devices came, went, or changed in keys that can be changed on a running instance."""

    added: list[str]
    removed: list[str]
    updated: list[str]


def diff(svc: Instances, was: Expanded, now: Expanded, seen: InstanceView) -> DeviceDiff:
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


def _apply_devices(
    svc: Instances,
    inst: Instance,
    record: InstanceRecord,
    was: Expanded,
    now: Expanded,
    undo: ExitStack,
) -> Changes:
    pid = inst.running.init if inst.running else None
    ids = inst.idmap if inst.is_running else svc.idmap_of(now.config)
    old_view = deviceset.view(svc.ctx, record, was, ids, pid)
    new_view = deviceset.view(svc.ctx, record, now, ids, pid)
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
        device = deviceset.build(svc.ctx, name, now.devices[name], _with(new_view, changes))
        before = deviceset.build(svc.ctx, name, was.devices[name], old_view)
        undo.callback(_taken_back, inst, name, partial(before.update, now.devices[name]))
        run = device.update(was.devices[name])
        hotplug.limit_io(svc, inst, run)
        changes.update(deviceset.keys(name, run.volatile))
    return changes


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
