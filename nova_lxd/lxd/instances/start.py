# SPDX-License-Identifier: Apache-2.0
"""Starting an instance: its root, templates, devices, liblxc, and the record of it."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.devices.interface import InstanceView, RunConfig
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import modules
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.host.liblxc import hooks
from nova_lxd.lxd.host.liblxc.running import kill_leftovers
from nova_lxd.lxd.instances import (
    confine,
    deviceset,
    idmaps,
    netpriority,
    processors,
    rootmount,
    startconfig,
    templates,
    volumes,
)
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.startconfig import CONSOLE_LOG, StartPlan
from nova_lxd.lxd.instances.trace import Trace
from nova_lxd.lxd.schema import cron
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.storage.volume import ROOTFS

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
Changes = dict[str, str | None]
_POWER = "volatile.last_state.power"


@dataclass
class _Start:
    """One start in the making."""

    svc: Instances
    inst: Instance
    record: InstanceRecord
    expanded: Expanded
    trace: Trace
    idmap: Idmap
    changes: Changes

    @property
    def config(self) -> dict[str, str]:
        """The expanded configuration with what this start has changed so far."""
        return deviceset.patched(self.expanded.config, self.changes)

    def view(self, init_pid: int | None = None) -> InstanceView:
        expanded = Expanded(self.config, self.expanded.devices)
        return deviceset.view(self.svc.ctx, self.record, expanded, self.idmap, init_pid)


def start(svc: Instances, inst: Instance) -> Trace:
    """Start a stopped instance; on failure all is as before.

    The caller holds the instance's lock.

    :raises BadRequest: it runs already, or its configuration cannot be started.
    :raises LXDError: a device, the storage or liblxc refused.
    """
    if inst.is_running:
        raise BadRequest("The instance is already running")
    trace = Trace(f"start of {inst}")
    svc.ctx.grace.begin()
    record = svc.record(inst)
    expanded = svc.expanded(record)
    ids, base = idmaps.choose(svc.ctx.ids, expanded.config, svc.isolated_ranges(expanded, inst.id))
    begun = _Start(svc, inst, record, expanded, trace, ids, _idmap_keys(ids, base))
    with ExitStack() as undo:
        _record_intent(begun, undo)
        trace.step("intent")
        _prepare(begun)
        trace.step("prepare")
        _mount_root(begun, undo)
        trace.step("root")
        runs, device_changes = deviceset.start(svc.ctx, begun.view(), undo)
        begun.changes.update(device_changes)
        trace.step("devices")
        _check_root_pool(begun, runs)
        _run(begun, runs, undo)
        deviceset.post_start(svc.ctx, begun.view(inst.running.init if inst.running else None))
        trace.step("post-start")
        undo.pop_all()
    processors.rebalance(svc)
    svc.nodes.follow(inst, expanded.devices)
    netpriority.at_start(svc, inst, expanded.config)
    trace.done()
    if cron.parse(expanded.config.get("snapshots.schedule") or cron.NEVER).at_startup:
        svc.ctx.executor.submit(svc.take_snapshot, inst)
    LOG.info("Started %s", inst)
    return trace


def _idmap_keys(ids: Idmap, base: int) -> Changes:
    text = ids.to_json()
    return {
        "volatile.idmap.base": str(base),
        "volatile.idmap.next": text,
        "volatile.idmap.current": text,
        # Trees are kept unshifted: what is on disk are the container's own ids.
        "volatile.last_state.idmap": "[]",
    }


def _record_intent(begun: _Start, undo: ExitStack) -> None:
    """Before anything is on the host: a daemon that finds it finishes the start or undoes it."""
    db_instances.set_config(begun.svc.ctx.db, begun.inst.id, {_POWER: "RUNNING"})
    undo.callback(_record_not_started, begun)


def _prepare(begun: _Start) -> None:
    """Directories, and no leftovers of a life that nobody ended properly."""
    svc, record = begun.svc, begun.record
    modules.load(begun.expanded.config.get("linux.kernel_modules", ""))
    kill_leftovers(svc.ctx.paths.cgroup, begun.inst.stored_name)
    run_dir = svc.ctx.paths.instance_run(record.project, record.name)
    if not run_dir.is_dir():
        run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    hooks.take_target(run_dir)
    log_dir = svc.ctx.paths.log(record.project, record.name)
    if not log_dir.is_dir():
        log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("lxc.log", CONSOLE_LOG):
        log = log_dir / name
        if log.exists():
            log.replace(log.with_name(f"{name}.old"))


def _mount_root(begun: _Start, undo: ExitStack) -> None:
    svc, record, inst = begun.svc, begun.record, begun.inst
    pool = svc.ctx.storage.get(record.pool)
    volume = pool.driver.mount_volume(volumes.of_record(record))
    begun.trace.step("storage")
    apply_templates(begun.record, begun.expanded, volume, begun.changes)
    begun.trace.step("templates")
    target = svc.ctx.paths.rootfs_mount(inst.project, inst.name)
    root = begun.expanded.root
    readonly = bool(root and is_true(root[1].get("readonly")))
    undo.callback(rootmount.unmount, target)
    rootmount.mount(volume / ROOTFS, target, begun.idmap, readonly=readonly)


def _check_root_pool(begun: _Start, runs: dict[str, RunConfig]) -> None:
    """:raises BadRequest: the root disk's device names another pool than the volume is on."""
    for name, started in runs.items():
        if started.root is not None and started.root.pool != begun.record.pool:
            raise BadRequest(
                f'Failed to start device "{name}": the root disk is on pool '
                f"{begun.record.pool!r}, not {started.root.pool!r}"
            )


def apply_templates(
    record: InstanceRecord, expanded: Expanded, volume: Path, changes: Changes
) -> None:
    """Render the templates for a start and for what was deferred to it (create, copy, rename)."""
    found = templates.read(volume)
    deferred = record.config.get("volatile.apply_template", "")
    if deferred:
        changes["volatile.apply_template"] = None
    if not found:
        return
    subject = templates.Subject(
        record.name,
        record.architecture,
        is_true(expanded.config.get("security.privileged")),
        record.ephemeral,
        expanded.config,
        expanded.devices,
    )
    triggers = [deferred, "start"] if deferred else ["start"]
    templates.apply(volume, subject, triggers, found)


def _run(begun: _Start, runs: dict[str, RunConfig], undo: ExitStack) -> None:
    """Record what the devices chose, start it, and take hold of its processes."""
    svc, inst, record = begun.svc, begun.inst, begun.record
    paths = svc.ctx.paths
    security = confine.prepare(svc.ctx, record.project, record.name, begun.config, begun.idmap)
    undo.callback(confine.remove, svc.ctx, record.project, record.name)
    plan = StartPlan(
        record.project,
        record.name,
        record.architecture,
        begun.config,
        begun.idmap,
        tuple(runs[name] for name in runs),
        processors.for_start(svc, inst, begun.config),
        tuple(security),
    )
    items = startconfig.build(paths, plan)
    begun.trace.step("configuration")
    db_instances.set_config(svc.ctx.db, inst.id, begun.changes, last_used_at=time.time())
    begun.trace.step("record")
    log = paths.log(record.project, record.name) / "lxc.log"
    # A monitor that is killed in the midst leaves its control groups.
    undo.callback(kill_leftovers, paths.cgroup, inst.stored_name)
    running = svc.ctx.liblxc.start(
        inst.stored_name, paths.run, items, log=log, level="WARN"
    )
    begun.trace.step("liblxc")
    # The container has a copy in its own namespace.  Every start copies the host's mounts, and
    # liblxc reads the list of them twice: what is left here costs all later starts.
    rootmount.unmount(paths.rootfs_mount(record.project, record.name))
    begun.trace.step("release root")
    inst.idmap = begun.idmap
    inst.frozen = False
    svc.watch(inst, running)
    undo.callback(_kill, svc, inst)


def _record_not_started(begun: _Start) -> None:
    changes: Changes = {_POWER: "STOPPED"}
    changes.update({f"volatile.{name}.host_name": None for name in begun.expanded.devices})
    db_instances.set_config(begun.svc.ctx.db, begun.inst.id, changes)


def _kill(svc: Instances, inst: Instance) -> None:
    running = inst.running
    if running is not None:
        inst.claimed = True
        running.kill()
        svc.forget_running(inst)
