# SPDX-License-Identifier: Apache-2.0
"""Deleting an instance with its snapshots, volume and files."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.instances import deviceset, verbs, volumes
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.trace import Trace
from nova_lxd.lxd.schema.configkeys import is_true

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


def check(svc: Instances, inst: Instance) -> InstanceRecord:
    """:raises BadRequest: it runs, or ``security.protection.delete`` is set."""
    if inst.is_running:
        raise BadRequest("Instance is running")
    record = svc.record(inst)
    if is_true(svc.expanded(record).config.get("security.protection.delete")):
        raise BadRequest("Instance is protected")
    return record


def delete(svc: Instances, inst: Instance, *, requestor: object = None) -> None:
    """Remove a stopped instance and everything of it; finished at the next start when killed.

    The caller holds the instance's lock.

    :raises BadRequest: it runs or is protected.
    """
    trace = Trace(f"deletion of {inst}")
    record = check(svc, inst)
    snapshots = [s.name for s in db_snapshots.of_instance(svc.ctx.db, inst.id)]
    db_instances.update(svc.ctx.db, inst.id, intent=verbs.DELETE)
    trace.step("intent")
    finish(svc, record, trace)
    svc.drop(inst)
    trace.done()
    for name in snapshots:
        svc.announce("instance-snapshot-deleted", inst, snapshot=name)
    svc.announce("instance-deleted", inst)
    LOG.info("Deleted %s", inst)


def finish(svc: Instances, record: InstanceRecord, trace: Trace | None = None) -> None:
    """Remove the volume, the files and the record; idempotent, for half-deleted ones too."""
    trace = trace or Trace(f"removal of instance {record.name!r}")
    ctx = svc.ctx
    expanded = svc.expanded(record)
    devices = deviceset.view(ctx, record, expanded, svc.idmap_of(expanded.config))
    others = [name for name, device in expanded.devices.items() if device.get("path") != "/"]
    deviceset.remove(ctx, others, devices)
    trace.step("devices")
    volume = volumes.of_record(record)
    if record.pool:
        try:
            volumes.driver(ctx, record.pool).delete_volume(volume)
        except NotFound:  # the pool was removed by force: nothing is left to delete
            LOG.warning("Storage pool %s of instance %s is gone", record.pool, record.name)
    trace.step("volume")
    volumes.unlink(ctx.paths, volume)
    for directory in (
        ctx.paths.instance_run(record.project, record.name),
        ctx.paths.log(record.project, record.name),
        ctx.paths.instance_devices(record.project, record.name),
        ctx.paths.backups / "instances" / volume.name,
    ):
        shutil.rmtree(directory, ignore_errors=True)
    trace.step("files")
    db_instances.delete(ctx.db, record.id)
    trace.step("record")
