# SPDX-License-Identifier: Apache-2.0
"""Changes of state asked for by a client: each takes the lock, acts and tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.instances import delete, start, stop
from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

Requestor = Mapping[str, Any] | None
#: LXD's description of each action's operation.
DESCRIPTIONS = {
    "start": "Starting instance",
    "stop": "Stopping instance",
    "restart": "Restarting instance",
    "freeze": "Freezing instance",
    "unfreeze": "Unfreezing instance",
}
_END_PATIENCE = 30.0
# Short actions, such as a snapshot, are waited for; long ones refuse with their name.
_PATIENCE = 5.0


def change(
    svc: Instances,
    inst: Instance,
    action: str,
    *,
    force: bool = False,
    timeout: float | None = None,
    requestor: Requestor = None,
) -> dict[str, str] | None:
    """Do one of :data:`DESCRIPTIONS`; the steps of a start and what they took are returned.

    :param timeout: seconds that a clean stop may take, None for ever.
    :raises BadRequest: unknown action, or the instance is not in the state for it.
    :raises Conflict: another action holds the instance.
    """
    verbs: dict[str, Callable[[], dict[str, str] | None]] = {
        "start": lambda: _start(svc, inst, requestor),
        "stop": lambda: _stop(svc, inst, force, timeout, requestor),
        "restart": lambda: _restart(svc, inst, force, timeout, requestor),
        "freeze": lambda: _freeze(svc, inst, requestor),
        "unfreeze": lambda: _unfreeze(svc, inst, requestor),
    }
    verb = verbs.get(action)
    if verb is None:
        raise BadRequest(f"Unknown action: '{action[:32]}'")
    svc.settle(inst)
    return verb()


def _start(svc: Instances, inst: Instance, requestor: Requestor) -> dict[str, str]:
    with svc.hold(inst, "start", _PATIENCE):
        trace = start.start(svc, inst)
        svc.announce("instance-started", inst, requestor=requestor)
        return trace.metadata()


def _stop(
    svc: Instances, inst: Instance, force: bool, timeout: float | None, requestor: Requestor
) -> None:
    if force and stop.force_while_busy(svc, inst, svc.locks):
        return
    # A container that has just ended by itself is being cleaned up: then it is stopped already.
    with svc.hold(inst, "stop", _END_PATIENCE if force else _PATIENCE):
        if force:
            stop.stop(svc, inst)
            svc.announce("instance-stopped", inst, requestor=requestor)
        else:
            stop.shutdown(svc, inst, timeout)
            svc.announce("instance-shutdown", inst, requestor=requestor)
        if svc.record(inst).ephemeral:
            delete.delete(svc, inst)


def _restart(
    svc: Instances, inst: Instance, force: bool, timeout: float | None, requestor: Requestor
) -> dict[str, str]:
    if not inst.is_running:
        raise BadRequest("Instance is not running")
    with svc.hold(inst, "restart", _PATIENCE):
        if force:
            stop.stop(svc, inst)
        else:
            stop.shutdown(svc, inst, timeout)
        trace = start.start(svc, inst)
        svc.announce("instance-restarted", inst, requestor=requestor)
        return trace.metadata()


def _freeze(svc: Instances, inst: Instance, requestor: Requestor) -> None:
    with svc.hold(inst, "freeze", _PATIENCE):
        group = svc.cgroup(inst)
        if group is None:
            raise BadRequest("The container isn't running")
        if inst.frozen:
            raise BadRequest("The container is already frozen")
        group.freeze()
        inst.frozen = True
        svc.announce("instance-paused", inst, requestor=requestor)


def _unfreeze(svc: Instances, inst: Instance, requestor: Requestor) -> None:
    with svc.hold(inst, "unfreeze", _PATIENCE):
        if not inst.is_running:
            raise BadRequest("The container isn't running")
        if not inst.frozen:
            raise BadRequest("The container is already running")
        svc.thaw_processes(inst)
        svc.announce("instance-resumed", inst, requestor=requestor)
