# SPDX-License-Identifier: Apache-2.0
"""The daemon's start: adopt what runs, finish or undo what an earlier daemon left half-made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.instances import delete, intents, start, stillness, stop
from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


def recover(svc: Instances) -> None:
    """Bring the registry, the database and the host in line."""
    for directory in (svc.ctx.paths.run, svc.ctx.paths.containers, svc.ctx.paths.snapshots):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory.chmod(0o711)
    records = db_instances.get_all(svc.ctx.db)
    instances = {record.id: svc.adopt_record(record) for record in records}
    _adopt_running(svc, records, instances)
    for record in records:
        inst = instances[record.id]
        try:
            stillness.recover(svc, inst)
            intents.settle(svc, inst, record)
            if svc.by_id(inst.id) is not None:
                _settle_state(svc, inst, record)
        except (LXDError, OSError):
            # One broken instance must not keep the daemon from serving the others.
            LOG.exception("Recovering %s failed", inst)


def _adopt_running(
    svc: Instances, records: list[InstanceRecord], instances: dict[int, Instance]
) -> None:
    names = {instances[r.id].stored_name: r for r in records}
    found = svc.ctx.liblxc.find_running(svc.ctx.paths.run, list(names))
    for name, running in found.items():
        record = names[name]
        inst = instances[record.id]
        inst.idmap = Idmap.from_json(record.config.get("volatile.idmap.current", ""))
        inst.groups = Cgroup.of(running.init, name)
        inst.frozen = inst.groups.frozen
        expanded = svc.expanded(record)
        if "limits.cpu" in expanded.config:
            svc.cpus[inst.id] = ""
        svc.watch(inst, running)
        svc.nodes.follow(inst, expanded.devices)
        LOG.info("Adopted running %s", inst)


def _settle_state(svc: Instances, inst: Instance, record: InstanceRecord) -> None:
    """An instance recorded as running that does not run: it ended, or the host went down."""
    for snapshot in db_snapshots.of_instance(svc.ctx.db, inst.id):
        intents.settle_snapshot(svc, record, snapshot)
    if inst.is_running or record.config.get("volatile.last_state.power") != "RUNNING":
        return
    how = stop.recover_stopped(svc, inst)
    LOG.info("%s is not running any more (%s)", inst, how)
    if how == "reboot":
        with svc.hold(inst, "start"):
            start.start(svc, inst)
        svc.announce("instance-restarted", inst)
    elif how == "stop" and record.ephemeral:
        with svc.hold(inst, "delete"):
            delete.delete(svc, inst)
