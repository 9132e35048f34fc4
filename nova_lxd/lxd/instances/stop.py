# SPDX-License-Identifier: Apache-2.0
"""Ending an instance: by force, by asking, by itself, and the clean-up that all have in common."""

from __future__ import annotations

import logging
import re
import signal
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.errors import BadRequest, InternalError, LXDError
from nova_lxd.lxd.host import cgroups
from nova_lxd.lxd.host.liblxc import hooks, running
from nova_lxd.lxd.host.liblxc.running import Running
from nova_lxd.lxd.instances import (
    confine,
    delete,
    deviceset,
    processors,
    rootmount,
    start,
)
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.trace import Trace
from nova_lxd.lxd.locks import ActionLocks

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
_CLEANUP_PATIENCE = 60.0
# A number, a name, or one relative to the real-time signals' range: SIGRTMIN+3.
_HALT = re.compile(r"^[ \t]*lxc\.signal\.halt[ \t]*=[ \t]*(\w+)(?:([+-])(\d+))?", re.M)
_KILL_TIMEOUT = 30.0


def stop(svc: Instances, inst: Instance) -> None:
    """Kill every process of a running instance; returns when all is cleaned up.

    The caller holds the instance's lock.

    :raises BadRequest: it does not run.
    """
    current = _claim(svc, inst)
    trace = Trace(f"stop of {inst}")
    try:
        _signal_end(inst, current)
        # The kernel takes its time with a veth pair: let it do so beside the container's end.
        _drop_pairs(svc, inst)
        trace.step("nics")
        kill(inst, current)
        trace.step("kill")
    except BaseException:
        _unclaim(svc, inst, current)
        raise
    cleanup(svc, inst, current, trace)
    LOG.info("Stopped %s", inst)


def _drop_pairs(svc: Instances, inst: Instance) -> None:
    """Remove the veth pairs of a dying instance; what fails here is done again at the clean-up."""
    record = svc.record(inst)
    expanded = svc.expanded(record)
    seen = deviceset.view(svc.ctx, record, expanded, inst.idmap)
    for name, config in expanded.devices.items():
        if config.get("type") != "nic" or not seen.volatile(name, "host_name"):
            continue
        try:
            deviceset.build(svc.ctx, name, config, seen).stop()
        except (LXDError, OSError) as exc:
            LOG.debug("Removing nic %s of %s early failed: %s", name, inst, exc)


def shutdown(svc: Instances, inst: Instance, timeout: float | None) -> None:
    """Ask a running instance to shut down; returns when it has and all is cleaned up.

    The caller holds the instance's lock; a forced stop by somebody else ends the wait too.

    :param timeout: seconds to wait, None for ever.
    :raises BadRequest: it does not run.
    :raises InternalError: it still runs when the time is over; it goes on then.
    """
    current = _claim(svc, inst)
    try:
        if inst.frozen:
            svc.thaw_processes(inst)
        _ask(svc, inst, current)
        if not current.wait(timeout):
            raise InternalError(
                'Failed shutting down instance, status is "Running": context deadline exceeded'
            )
    except BaseException:
        _unclaim(svc, inst, current)
        raise
    cleanup(svc, inst, current)
    LOG.info("Shut down %s", inst)


def _ask(svc: Instances, inst: Instance, current: Running) -> None:
    raw = svc.expanded(svc.record(inst)).config.get("raw.lxc", "")
    try:
        current.shutdown(halt_signal(raw))
    except ProcessLookupError:  # it ended by itself just now
        LOG.debug("%s ended before it was asked to", inst)


def halt_signal(raw: str) -> int:
    """The signal that ``lxc.signal.halt`` in raw.lxc names, 0 when it names none."""
    found = _HALT.findall(raw)
    if not found:
        return 0
    name, sign, offset = found[-1]
    if name.isdigit():
        return int(name)
    if name not in signal.Signals.__members__:
        return 0
    return signal.Signals[name] + int(f"{sign}{offset or 0}")


def kill(inst: Instance, current: Running) -> None:
    """End every process and wait for liblxc; frozen ones are thawed so that they can die.

    :raises InternalError: its init does not die.
    """
    _signal_end(inst, current)
    current.wait_or_end_monitor(_KILL_TIMEOUT)


def _signal_end(inst: Instance, current: Running) -> None:
    """SIGKILL, also to a frozen container, which dies only once it is thawed."""
    current.signal(signal.SIGKILL)
    if inst.frozen:
        cgroups.thaw_process(current.init)


def _claim(svc: Instances, inst: Instance) -> Running:
    current = inst.running
    if current is None:
        # A start whose undo could not be written is still on record; nobody wants it at boot.
        if svc.record(inst).config.get("volatile.last_state.power") == "RUNNING":
            db_instances.set_config(
                svc.ctx.db, inst.id, {"volatile.last_state.power": "STOPPED"}
            )
        raise BadRequest("The instance is already stopped")
    inst.claimed = True
    return current


def _unclaim(svc: Instances, inst: Instance, current: Running) -> None:
    """Hand the end back to the watcher, also when it came meanwhile."""
    inst.claimed = False
    if current.wait(0):
        svc.ended(inst, current)


def force_while_busy(svc: Instances, inst: Instance, locks: ActionLocks) -> bool:
    """Kill an instance for whose shutdown somebody else waits; that one then cleans up.

    Returns whether there was such a wait and the instance is stopped now.
    """
    current = inst.running
    if current is None or locks.holder(inst.key) not in ("stop", "restart", "shutdown"):
        return False
    kill(inst, current)
    return inst.ended.wait(_CLEANUP_PATIENCE)


def cleanup(
    svc: Instances, inst: Instance, current: Running, trace: Trace | None = None
) -> None:
    """Take devices, mounts and the record back after the container's end; it stays defined.

    What fails is logged and does not keep the rest from it: the instance is stopped in any case.
    """
    trace = trace or Trace(f"clean-up after {inst}")
    record = svc.record(inst)
    expanded = svc.expanded(record)
    ctx = svc.ctx
    svc.target(inst)  # told to whoever asked; a later start must not find it
    _kill_leftovers(svc, inst)
    trace.step("read")
    changes = deviceset.post_stop(ctx, deviceset.view(ctx, record, expanded, inst.idmap))
    trace.step("devices")
    try:
        rootmount.unmount(ctx.paths.rootfs_mount(inst.project, inst.name))
        confine.remove(ctx, inst.project, inst.name)
    except (OSError, LXDError):
        LOG.exception("Releasing the root of %s failed", inst)
    trace.step("root")
    changes["volatile.last_state.power"] = "STOPPED"
    changes.update(svc.stop_changes(record))
    try:
        db_instances.set_config(ctx.db, inst.id, changes)
    finally:
        svc.forget_running(inst)
    processors.rebalance(svc)
    trace.step("record")
    trace.done()


def _kill_leftovers(svc: Instances, inst: Instance) -> None:
    """End a container that lost its monitor, and remove its control groups: nobody else will."""
    running.kill_leftovers(svc.ctx.paths.cgroup, inst.stored_name)


def after_end(svc: Instances, inst: Instance, current: Running) -> None:
    """The container ended by itself: clean up, and start it again if it asked for a reboot.

    Runs on a worker thread; waits for whoever holds the instance's lock.
    """
    with svc.locks.hold(inst.key, "stop", str(inst), patience=_CLEANUP_PATIENCE):
        if inst.running is not current:
            return
        reboot = svc.target(inst) == "reboot"
        cleanup(svc, inst, current)
        if reboot:
            LOG.info("%s reboots itself", inst)
            start.start(svc, inst)
            svc.announce("instance-restarted", inst)
            return
        LOG.info("%s shut itself down", inst)
        svc.announce("instance-shutdown", inst)
        if svc.record(inst).ephemeral:
            delete.delete(svc, inst)


def recover_stopped(svc: Instances, inst: Instance) -> str:
    """Clean up an instance that is recorded as running and does not run (any more).

    Returns how it ended: ``stop`` or ``reboot`` when it did so while no daemon was there, ``lost``
    when the host or its monitor died.
    """
    run_dir = svc.ctx.paths.instance_run(inst.project, inst.name)
    told = (run_dir / hooks.TARGET_FILE).exists()
    how = hooks.take_target(run_dir) if told else "lost"
    record = svc.record(inst)
    expanded = svc.expanded(record)
    ctx = svc.ctx
    _kill_leftovers(svc, inst)
    changes = deviceset.post_stop(ctx, deviceset.view(ctx, record, expanded, inst.idmap))
    rootmount.unmount(ctx.paths.rootfs_mount(inst.project, inst.name))
    confine.remove(ctx, inst.project, inst.name)
    if how == "stop":
        changes["volatile.last_state.power"] = "STOPPED"
    changes.update(svc.stop_changes(record))
    db_instances.set_config(ctx.db, inst.id, changes)
    return how
