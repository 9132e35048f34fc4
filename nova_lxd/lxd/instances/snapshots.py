# SPDX-License-Identifier: Apache-2.0
"""Snapshots of instances: taken, restored, renamed, changed, deleted, and let expire."""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.instances import naming, start, stop, timespan, verbs, volumes
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.stillness import still
from nova_lxd.lxd.storage.volume import Volume

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
# What a restore leaves as it is: the instance's identity, not the state of its content.
_KEPT_AT_RESTORE = ("volatile.uuid",)


def create(
    svc: Instances, inst: Instance, name: str, expires_at: float | None = None
) -> SnapshotRecord:
    """Take a snapshot of the instance as it is; it may run.

    The caller holds the instance's lock.

    :param expires_at: UNIX time, 0 for never, None for what ``snapshots.expiry`` says.
    :raises Conflict: it has a snapshot of this name.
    """
    record = svc.record(inst)
    if expires_at is None:
        spec = svc.expanded(record).config.get("snapshots.expiry", "")
        expires_at = timespan.after(spec, time.time()) if spec else 0.0
    snapshot = SnapshotRecord(
        instance_id=inst.id,
        name=name,
        architecture=record.architecture,
        created_at=time.time(),
        ephemeral=record.ephemeral,
        config=record.config,
        devices=record.devices,
        profiles=record.profiles,
        expires_at=expires_at,
        intent=verbs.CREATE,
    )
    volume = volumes.of_record(record)
    driver = volumes.driver(svc.ctx, record.pool)
    with ExitStack() as undo:
        try:
            snapshot = db_snapshots.create(svc.ctx.db, snapshot)
        except sqlite3.IntegrityError as exc:
            raise Conflict(f'Snapshot "{name}" already in use') from exc
        undo.callback(unlink_if_none, svc, inst.id, volume)
        undo.callback(db_snapshots.delete, svc.ctx.db, snapshot.id)
        with still(svc, inst, record.pool):
            driver.create_snapshot(volume.at(name))
        undo.callback(driver.delete_snapshot, volume.at(name))
        volumes.link(svc.ctx.paths, record.pool, volume, snapshots=True)
        db_snapshots.update(svc.ctx.db, snapshot.id, intent="")
        undo.pop_all()
    svc.announce("instance-snapshot-created", inst, snapshot=name)
    LOG.info("Took snapshot %s of %s", name, inst)
    return replace(snapshot, intent="")


def restore(svc: Instances, inst: Instance, name: str) -> None:
    """Make content, configuration and devices those of a snapshot; a running one is restarted.

    The caller holds the instance's lock.

    :raises NotFound: there is no such snapshot.
    """
    snapshot = svc.snapshot(inst, name)
    was_running = inst.is_running
    record = svc.record(inst)
    if was_running:
        if record.ephemeral:
            # Otherwise its stop would delete it.
            db_instances.update(svc.ctx.db, inst.id, ephemeral=False)
        stop.stop(svc, inst)
        record = svc.record(inst)
    db_instances.update(svc.ctx.db, inst.id, intent=f"{verbs.RESTORE}:{name}")
    try:
        finish_restore(svc, record, snapshot)
    except BaseException:
        db_instances.update(svc.ctx.db, inst.id, intent="")
        raise
    svc.announce("instance-restored", inst, context={"snapshot": name})
    LOG.info("Restored %s from snapshot %s", inst, name)
    if was_running:
        start.start(svc, inst)


def finish_restore(svc: Instances, record: InstanceRecord, snapshot: SnapshotRecord) -> None:
    """Restore a stopped instance's volume, then its record; done again after a kill in between."""
    # The size that the root disk has from now on, for the tree that takes the old one's place.
    expanded = svc.expander().expand(
        record.project, snapshot.profiles, snapshot.config, snapshot.devices
    )
    volume = volumes.of_record(record, expanded)
    volumes.driver(svc.ctx, record.pool).restore_snapshot(volume.at(snapshot.name))
    kept = {k: v for k, v in record.config.items() if k in _KEPT_AT_RESTORE}
    config = {k: v for k, v in snapshot.config.items() if k != "volatile.idmap.current"}
    config["volatile.last_state.power"] = "STOPPED"
    db_instances.update(
        svc.ctx.db,
        record.id,
        architecture=snapshot.architecture,
        config={**config, **kept},
        devices=snapshot.devices,
        profiles=snapshot.profiles,
        ephemeral=snapshot.ephemeral,
        intent="",
    )


def rename(svc: Instances, inst: Instance, name: str, new: str) -> None:
    """Give a snapshot another name; the instance may run.

    :raises Conflict: the name is taken.
    """
    naming.check_snapshot_name(new)
    snapshot = svc.snapshot(inst, name)
    record = svc.record(inst)
    if db_snapshots.get(svc.ctx.db, inst.id, new) is not None:
        raise Conflict(f'Name "{new}" already in use')
    snap_volume = volumes.of_record(record).at(name)
    driver = volumes.driver(svc.ctx, record.pool)
    db_snapshots.update(svc.ctx.db, snapshot.id, intent=f"{verbs.RENAME}:{new}")
    try:
        driver.rename_snapshot(snap_volume, new)
    except BaseException:
        db_snapshots.update(svc.ctx.db, snapshot.id, intent="")
        raise
    db_snapshots.update(svc.ctx.db, snapshot.id, name=new, intent="")
    svc.announce("instance-snapshot-renamed", inst, snapshot=new, context={"old_name": name})


def set_expiry(svc: Instances, inst: Instance, name: str, expires_at: float) -> None:
    """Set when a snapshot expires, 0 for never."""
    snapshot = svc.snapshot(inst, name)
    db_snapshots.update(svc.ctx.db, snapshot.id, expires_at=expires_at)
    svc.announce("instance-snapshot-updated", inst, snapshot=name)


def delete(svc: Instances, inst: Instance, name: str) -> None:
    """Remove a snapshot; the instance may run.  Finished at the next start when killed."""
    snapshot = svc.snapshot(inst, name)
    record = svc.record(inst)
    volume = volumes.of_record(record)
    db_snapshots.update(svc.ctx.db, snapshot.id, intent=verbs.DELETE)
    volumes.driver(svc.ctx, record.pool).delete_snapshot(volume.at(name))
    db_snapshots.delete(svc.ctx.db, snapshot.id)
    unlink_if_none(svc, inst.id, volume)
    svc.announce("instance-snapshot-deleted", inst, snapshot=name)
    LOG.info("Deleted snapshot %s of %s", name, inst)


def unlink_if_none(svc: Instances, instance_id: int, volume: Volume) -> None:
    """Remove LXD_DIR/snapshots/NAME once the instance has no snapshot."""
    if not db_snapshots.of_instance(svc.ctx.db, instance_id):
        volumes.unlink(svc.ctx.paths, volume, only_snapshots=True)


def next_name(svc: Instances, record: InstanceRecord, pattern: str) -> str:
    """The name for a snapshot that got none: ``snap%d`` with the next free number, or a template.

    :raises BadRequest: the pattern cannot be rendered or gives no valid name.
    """
    return free_name(pattern, {s.name for s in db_snapshots.of_instance(svc.ctx.db, record.id)})


def free_name(pattern: str, taken: Collection[str]) -> str:
    """As :func:`next_name`, beside names that are taken."""
    name = naming.render_pattern(pattern or "snap%d", time.time())
    if "%d" not in name and name in taken:
        name += "-%d"
    if "%d" in name:
        numbered = re.compile(re.escape(name).replace("%d", r"(\d{1,9})"))
        used = [int(m[1]) for m in map(numbered.fullmatch, taken) if m]
        name = name.replace("%d", str(max(used, default=-1) + 1), 1)
    naming.check_snapshot_name(name)
    return name


def require_free(svc: Instances, inst: Instance, name: str) -> None:
    """:raises BadRequest: bad name.  :raises Conflict: the name is taken."""
    naming.check_snapshot_name(name)
    if db_snapshots.get(svc.ctx.db, inst.id, name) is not None:
        raise Conflict(f'Snapshot "{inst.name}/{name}" already exists')


def refuse_stateful() -> None:
    """:raises BadRequest: always; memory state needs CRIU."""
    raise BadRequest(
        "Unable to create a stateful snapshot: this server does not use CRIU; take a stateless one"
    )
