# SPDX-License-Identifier: Apache-2.0
"""Changing an instance: what is new is checked, applied to the running one, and recorded."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.profiles import Devices
from nova_lxd.lxd.errors import BadRequest, InternalError
from nova_lxd.lxd.host import modules
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.lxd.images import architectures
from nova_lxd.lxd.instances import (
    confine,
    create,
    devicechange,
    deviceset,
    guestapi,
    hotplug,
    idmaps,
    limits,
    netpriority,
    processors,
    verbs,
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
# What a control group answers to a value that cannot be.
_BAD_VALUE = (errno.EINVAL, errno.ERANGE, errno.EBUSY)
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
            intent="",
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

    Returns the volatile keys to record with the new configuration, which ends the intent.

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
    _record_intent(svc, inst, Change.between(was, now, keys), undo)
    if keys & _IDMAP_KEYS:
        changes.update(_next_idmap(svc, inst, now))
    with hotplug.outliving(inst):
        if inst.is_running:
            _apply_keys(svc, inst, was.config, now.config, keys, undo)
        changes.update(devicechange.apply(svc, inst, record, was, now, undo))
        if inst.is_running:
            svc.nodes.follow(inst, now.devices)
    return changes


@dataclass(frozen=True)
class Change:
    """What of the host or of the running container follows a new configuration.

    :param keys: keys that are applied live.
    :param devices: names to the configuration before and after, None where there is none.
    """

    keys: list[str]
    devices: dict[str, tuple[dict[str, str] | None, dict[str, str] | None]]

    @classmethod
    def between(cls, was: Expanded, now: Expanded, keys: Collection[str]) -> Change:
        names = sorted(was.devices.keys() | now.devices.keys())
        versions = {name: (was.devices.get(name), now.devices.get(name)) for name in names}
        return cls(
            sorted(key for key in keys if key.startswith("limits.") or key in _CONFINING_KEYS),
            {name: (old, new) for name, (old, new) in versions.items() if old != new},
        )

    def before(self, recorded: Expanded) -> Expanded:
        """The other side of what is recorded: a change may be recorded before it is applied."""
        devices = dict(recorded.devices)
        for name, (old, new) in self.devices.items():
            other = old if recorded.devices.get(name) == new else new
            if other is None:
                devices.pop(name, None)
            else:
                devices[name] = other
        return Expanded(recorded.config, devices)


def _record_intent(svc: Instances, inst: Instance, change: Change, undo: ExitStack) -> None:
    """Before anything follows the change: a daemon that finds it brings all to what is recorded.

    The record of the change itself takes the intent back.
    """
    if change.devices or (change.keys and inst.is_running):
        intent = f"{verbs.UPDATE}:{json.dumps([change.keys, change.devices])}"
        db_instances.update(svc.ctx.db, inst.id, intent=intent)
        undo.callback(db_instances.update, svc.ctx.db, inst.id, intent="")


def settle(svc: Instances, inst: Instance, record: InstanceRecord, change: str) -> None:
    """Bring an instance in line with its record after a daemon was killed while it changed it."""
    keys, devices = json.loads(change)
    half = Change(keys, {name: (old, new) for name, (old, new) in devices.items()})
    recorded = svc.expanded(record)
    if inst.is_running:
        config = recorded.config
        with ExitStack() as undo:  # what is recorded is in force on either side: nothing to undo
            _apply_keys(svc, inst, config, config, set(half.keys), undo)
            undo.pop_all()
    changes = devicechange.settle(svc, inst, record, half.before(recorded), recorded)
    db_instances.set_config(svc.ctx.db, inst.id, changes)


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
            # The kernel takes no such number, or its value is below what is in use.
            kind = BadRequest if exc.errno in _BAD_VALUE else InternalError
            raise kind(
                f"Applying limits to {inst} failed: {exc.filename}: {exc.strerror}; the value may "
                "be out of range or below what is in use"
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
