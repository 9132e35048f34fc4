# SPDX-License-Identifier: Apache-2.0
"""Copying instances and snapshots: within a pool, between pools and projects, and refreshing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.profiles import Devices
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.instances import create, snapshots, verbs, volumes
from nova_lxd.lxd.instances.create import NewInstance
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.stillness import still
from nova_lxd.lxd.schema.configkeys import given
from nova_lxd.lxd.storage.volume import Volume

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
# The volatile keys that describe the content and so go along with it.
_COPIED_VOLATILE = ("volatile.base_image",)
_PATIENCE = 30.0


@dataclass(frozen=True)
class Copy:
    """One copy: ``new`` holds name, project and what overrides the source's own.

    :param snapshot: the source's snapshot to copy, empty for the instance itself.
    :param refresh: the target may exist and is made equal then.
    """

    new: NewInstance
    source: Instance
    snapshot: str = ""
    instance_only: bool = False
    refresh: bool = False
    overrides_config: Mapping[str, str] = field(default_factory=dict)
    overrides_devices: Devices = field(default_factory=dict)


def copy(
    svc: Instances, wanted: Copy, progress: Callable[[str], None] | None = None
) -> Instance:
    """Make the copy, or refresh it.

    :raises LXDError: the target exists, is wrong or runs, or the pool refused.
    """
    if wanted.refresh:
        try:
            target = svc.get(wanted.new.project, wanted.new.name)
        except NotFound:
            return _fresh(svc, wanted, progress)
        return _refresh(svc, wanted, target)
    return _fresh(svc, wanted, progress)


def _inherited(
    config: Mapping[str, str], overrides: Mapping[str, str]
) -> dict[str, str]:
    """The source's configuration that a copy gets: no volatile keys but those of the content."""
    kept = {
        key: value
        for key, value in config.items()
        if not key.startswith("volatile.") or key in _COPIED_VOLATILE
    }
    merged = {**kept, **overrides, "volatile.apply_template": "copy"}
    return given(merged)


def _plan(svc: Instances, wanted: Copy) -> tuple[NewInstance, InstanceRecord, Volume]:
    """The new instance with what it inherits, the source's record and the source's volume."""
    record = svc.record(wanted.source)
    volume = volumes.of_record(record)
    origin: InstanceRecord | SnapshotRecord = record
    if wanted.snapshot:
        origin = svc.snapshot(wanted.source, wanted.snapshot)
        volume = volume.at(wanted.snapshot)
    new = replace(
        wanted.new,
        architecture=origin.architecture,
        config=_inherited(origin.config, wanted.overrides_config),
        devices={**origin.devices, **wanted.overrides_devices},
        profiles=origin.profiles if wanted.new.profiles is None else wanted.new.profiles,
        stateful=False,
    )
    return new, record, volume


def _snapshots_to_copy(svc: Instances, wanted: Copy) -> list[SnapshotRecord]:
    if wanted.snapshot or wanted.instance_only:
        return []
    found = db_snapshots.of_instance(svc.ctx.db, wanted.source.id)
    return [s for s in found if not s.intent]


def _fresh(
    svc: Instances, wanted: Copy, progress: Callable[[str], None] | None
) -> Instance:
    # The source keeps still in its record and snapshots while it is read.
    with svc.hold(wanted.source, "copy", _PATIENCE), ExitStack() as undo:
        new, source, source_volume = _plan(svc, wanted)
        expanded = create.validate(svc, new)
        record = create.insert(svc, new, expanded, verbs.CREATE)
        undo.callback(db_instances.delete, svc.ctx.db, record.id)
        going = _snapshots_to_copy(svc, wanted)
        volume = volumes.of_record(record, expanded)
        _copy_volume(svc, wanted, record, volume, source, source_volume, going, progress)
        undo.callback(volumes.driver(svc.ctx, record.pool).delete_volume, volume)
        volumes.link(svc.ctx.paths, record.pool, volume, snapshots=bool(going))
        undo.callback(volumes.unlink, svc.ctx.paths, volume)
        _record_snapshots(svc, record, going)
        changes = create.prepare_devices(svc, record, expanded)
        db_instances.set_config(svc.ctx.db, record.id, changes, intent="")
        undo.pop_all()
    inst = svc.adopt_record(record)
    svc.announce(
        "instance-created", inst, context={"storage-pool": record.pool, "type": "container"}
    )
    LOG.info("Copied %s to %s", wanted.source, inst)
    return inst


def _copy_volume(
    svc: Instances,
    wanted: Copy,
    record: InstanceRecord,
    volume: Volume,
    source: InstanceRecord,
    source_volume: Volume,
    going: Sequence[SnapshotRecord],
    progress: Callable[[str], None] | None,
) -> None:
    pool = svc.ctx.storage.get(record.pool)
    origin = svc.ctx.storage.get(source.pool)
    quiet = nullcontext() if wanted.snapshot else still(svc, wanted.source, source.pool)
    with quiet:
        pool.copy_from(volume, origin, source_volume, [s.name for s in going], progress)


def _record_snapshots(
    svc: Instances, record: InstanceRecord, going: Sequence[SnapshotRecord]
) -> None:
    with svc.ctx.db.write():
        for s in going:
            config = _inherited(s.config, {})
            config.pop("volatile.apply_template", None)
            db_snapshots.create(
                svc.ctx.db, replace(s, id=0, instance_id=record.id, config=config, intent="")
            )


def _refresh(svc: Instances, wanted: Copy, target: Instance) -> Instance:
    """Make an existing, stopped target equal to the source; only what differs is copied."""
    if wanted.source is target:
        raise BadRequest("Cannot refresh an instance from itself")
    if target.is_running:
        raise BadRequest("Cannot refresh a running instance")
    with (
        svc.hold(target, "refresh"),
        svc.hold(wanted.source, "copy", _PATIENCE),
    ):
        _, source, source_volume = _plan(svc, wanted)
        record = svc.record(target)
        going = _snapshots_to_copy(svc, wanted)
        have = {s.name: s for s in db_snapshots.of_instance(svc.ctx.db, target.id)}
        known = {s.name: s for s in going}
        if not wanted.instance_only and not wanted.snapshot:
            for name, stale in have.items():
                if name not in known or known[name].created_at != stale.created_at:
                    snapshots.delete(svc, target, name)
                    known.pop(name, None)
            have = {s.name: s for s in db_snapshots.of_instance(svc.ctx.db, target.id)}
        missing = [s for s in going if s.name not in have]
        pool = svc.ctx.storage.get(record.pool)
        origin = svc.ctx.storage.get(source.pool)
        with still(svc, wanted.source, source.pool):
            pool.refresh_from(
                volumes.of_record(record), origin, source_volume, [s.name for s in missing]
            )
        _record_snapshots(svc, record, missing)
        if missing:
            volume = volumes.of_record(record)
            volumes.link(svc.ctx.paths, record.pool, volume, snapshots=True)
    svc.announce("instance-updated", target)
    return target


