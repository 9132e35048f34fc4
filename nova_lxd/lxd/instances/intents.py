# SPDX-License-Identifier: Apache-2.0
"""What a daemon that was killed had begun with an instance: finish it or undo it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.instances import config, delete, snapshots, volumes
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.verbs import CREATE, DELETE, MOVE, RENAME, RESTORE, UPDATE
from nova_lxd.lxd.paths import storage_name

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)

__all__ = [
    "CREATE", "DELETE", "MOVE", "RENAME", "RESTORE", "UPDATE", "settle", "settle_snapshot",
]


def settle(svc: Instances, inst: Instance, record: InstanceRecord) -> None:
    """Settle an instance's intent; a half-made or half-deleted one is gone afterwards."""
    if not record.intent:
        return
    verb, _, rest = record.intent.partition(":")
    LOG.warning("%s was left in the middle of %r; settling it", inst, record.intent)
    if verb in (CREATE, DELETE):
        delete.finish(svc, record)
        svc.drop(inst)
        return
    if verb == RENAME:
        _finish_rename(svc, record, *rest.split("/", 1))
    elif verb == MOVE:
        # The record names the pool that has the whole volume; the other copy is given up.
        volumes.driver(svc.ctx, rest).delete_volume(volumes.of_record(record))
    elif verb == UPDATE:
        config.settle(svc, inst, record, rest)
    elif verb == RESTORE:
        snapshot = db_snapshots.get(svc.ctx.db, record.id, rest)
        if snapshot is not None:
            snapshots.finish_restore(svc, record, snapshot)
    db_instances.update(svc.ctx.db, record.id, intent="")


def _finish_rename(svc: Instances, record: InstanceRecord, project: str, name: str) -> None:
    """The record still has the old name: bring the volume back to it."""
    driver = volumes.driver(svc.ctx, record.pool)
    new = volumes.of_name(project, name)
    old = volumes.of_record(record)
    if driver.has(new) and not driver.has(old):
        driver.rename_volume(new, storage_name(record.project, record.name))
    volumes.unlink(svc.ctx.paths, new)
    has_snapshots = bool(db_snapshots.of_instance(svc.ctx.db, record.id))
    volumes.link(svc.ctx.paths, record.pool, old, snapshots=has_snapshots)


def settle_snapshot(svc: Instances, record: InstanceRecord, snapshot: SnapshotRecord) -> None:
    """Settle a snapshot's intent: half-made and half-deleted ones go, names are those recorded."""
    if not snapshot.intent:
        return
    verb, _, rest = snapshot.intent.partition(":")
    volume = volumes.of_record(record)
    driver = volumes.driver(svc.ctx, record.pool)
    if verb in (CREATE, DELETE):
        driver.delete_snapshot(volume.at(snapshot.name))
        db_snapshots.delete(svc.ctx.db, snapshot.id)
        snapshots.unlink_if_none(svc, record.id, volume)
        return
    if verb == RENAME and driver.has(volume.at(rest)):
        driver.rename_snapshot(volume.at(rest), snapshot.name)
    db_snapshots.update(svc.ctx.db, snapshot.id, intent="")
