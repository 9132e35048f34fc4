# SPDX-License-Identifier: Apache-2.0
"""Renaming an instance, and moving it to another pool or project of this server."""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.instances import create, deviceset, naming, verbs, volumes
from nova_lxd.lxd.instances.expand import is_root
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.paths import storage_name

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Move:
    """Where an instance goes; an empty pool keeps it on its own."""

    name: str
    project: str
    pool: str = ""


def rename(svc: Instances, inst: Instance, name: str) -> None:
    """Give a stopped instance another name.

    The caller holds the instance's lock.

    :raises BadRequest: it runs, or the name is bad.
    :raises Conflict: the name is taken.
    """
    old = inst.name
    _rename(svc, inst, inst.project, name)
    svc.announce("instance-renamed", inst, context={"old_name": old})
    LOG.info("Renamed %s to %s", old, inst)


def require_free(svc: Instances, project: str, name: str) -> None:
    """:raises BadRequest: bad name.  :raises Conflict: the name is taken in the project."""
    naming.check_instance_name(name)
    if db_instances.get(svc.ctx.db, project, name) is not None:
        raise Conflict(f'Name "{name}" already in use')


def _rename(svc: Instances, inst: Instance, project: str, name: str) -> None:
    if inst.is_running:
        raise BadRequest("Renaming of running container not allowed")
    require_free(svc, project, name)
    record = svc.record(inst)
    driver = volumes.driver(svc.ctx, record.pool)
    volume, new = volumes.of_record(record), volumes.of_name(project, name)
    expanded = svc.expanded(record)
    seen = deviceset.view(svc.ctx, record, expanded, svc.idmap_of(expanded.config))
    with ExitStack() as undo:
        db_instances.update(
            svc.ctx.db, inst.id, intent=f"{verbs.RENAME}:{project}/{name}"
        )
        undo.callback(db_instances.update, svc.ctx.db, inst.id, intent="")
        deviceset.remove(svc.ctx, _nics(expanded.devices), seen)
        driver.rename_volume(volume, storage_name(project, name))
        undo.callback(driver.rename_volume, new, storage_name(record.project, record.name))
        volumes.unlink(svc.ctx.paths, volume)
        has_snapshots = bool(db_snapshots.of_instance(svc.ctx.db, inst.id))
        undo.callback(
            volumes.link, svc.ctx.paths, record.pool, volume, snapshots=has_snapshots
        )
        volumes.link(svc.ctx.paths, record.pool, new, snapshots=has_snapshots)
        undo.callback(volumes.unlink, svc.ctx.paths, new)
        _move_files(svc, record, project, name)
        undo.callback(_move_files_back, svc, record, project, name)
        with svc.ctx.db.write():
            db_instances.rename(svc.ctx.db, inst.id, project, name)
            db_instances.set_config(
                svc.ctx.db,
                inst.id,
                {"volatile.apply_template": _trigger(record)},
                intent="",
            )
        svc.rekey(inst, project, name)
        undo.pop_all()
    renamed = svc.record(inst)
    changes = create.prepare_devices(svc, renamed, svc.expanded(renamed))
    db_instances.set_config(svc.ctx.db, inst.id, changes)


def _trigger(record: InstanceRecord) -> str:
    """The deferred template trigger: one that has not been served yet says more."""
    return record.config.get("volatile.apply_template") or "rename"


def _nics(devices: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, device in devices.items() if device.get("type") == "nic"]


def _move_files(svc: Instances, record: InstanceRecord, project: str, name: str) -> None:
    paths = svc.ctx.paths
    shutil.rmtree(paths.instance_run(record.project, record.name), ignore_errors=True)
    old, new = paths.log(record.project, record.name), paths.log(project, name)
    if old.is_dir():
        shutil.rmtree(new, ignore_errors=True)
        old.rename(new)


def _move_files_back(svc: Instances, record: InstanceRecord, project: str, name: str) -> None:
    old, new = svc.ctx.paths.log(record.project, record.name), svc.ctx.paths.log(project, name)
    if new.is_dir():
        new.rename(old)


def move(svc: Instances, inst: Instance, wanted: Move, *, instance_only: bool) -> None:
    """Move a stopped instance to another pool, project or name.

    The caller holds the instance's lock.

    :raises BadRequest: it runs, or the target is wrong.
    :raises Conflict: the name is taken there.
    """
    if inst.is_running:
        raise BadRequest("Instance must be stopped to be moved")
    record = svc.record(inst)
    if wanted.pool and wanted.pool != record.pool:
        _move_pool(svc, inst, record, wanted.pool, instance_only=instance_only)
    if (wanted.project, wanted.name) != (inst.project, inst.name):
        if wanted.project != inst.project:
            _check_project(svc, record, wanted.project)
        old = inst.name
        _rename(svc, inst, wanted.project, wanted.name)
        svc.announce("instance-renamed", inst, context={"old_name": old})
    LOG.info("Moved %s", inst)


def _check_project(svc: Instances, record: InstanceRecord, project: str) -> None:
    """:raises BadRequest: the other project lacks a profile or cannot hold the instance."""
    expanded = svc.expander().expand(project, record.profiles, record.config, record.devices)
    pool = create.check_expanded(svc, project, record.name, expanded)
    if pool != record.pool:
        raise BadRequest(
            f"Moving instance {record.name!r} to project {project!r} failed: its profiles there "
            f"put the root disk on pool {pool!r}; give the instance a root disk of its own first"
        )


def _move_pool(
    svc: Instances, inst: Instance, record: InstanceRecord, pool: str, *, instance_only: bool
) -> None:
    expanded = svc.expanded(record)
    root = expanded.root
    if root is None:
        raise BadRequest(f"Moving {inst} failed: it has no root disk")
    target_pool, origin = svc.ctx.storage.get(pool), svc.ctx.storage.get(record.pool)
    volume = volumes.of_record(record, expanded)
    going = [] if instance_only else db_snapshots.of_instance(svc.ctx.db, inst.id)
    devices = {n: d for n, d in record.devices.items() if not is_root(d)}
    devices[root[0]] = {**root[1], "pool": pool}
    with ExitStack() as undo:
        db_instances.update(svc.ctx.db, inst.id, intent=f"{verbs.MOVE}:{pool}")
        undo.callback(db_instances.update, svc.ctx.db, inst.id, intent="")
        target_pool.copy_from(volume, origin, volume, [s.name for s in going])
        undo.callback(target_pool.driver.delete_volume, volume)
        # From here on the other pool has it; a kill leaves the old copy to the next start.
        db_instances.update(
            svc.ctx.db,
            inst.id,
            pool=pool,
            devices=devices,
            intent=f"{verbs.MOVE}:{record.pool}",
        )
        volumes.link(svc.ctx.paths, pool, volume, snapshots=bool(going))
        undo.pop_all()
    origin.driver.delete_volume(volume)
    if instance_only:
        for s in db_snapshots.of_instance(svc.ctx.db, inst.id):
            db_snapshots.delete(svc.ctx.db, s.id)
    db_instances.update(svc.ctx.db, inst.id, intent="")
