# SPDX-License-Identifier: Apache-2.0
"""The host's start and shut-down: which instances come up, which go down, in which order."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.host import cgroups
from nova_lxd.lxd.instances import delete, start, stop
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.schema.configkeys import is_true

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
_WARNING = "Failed to autostart instance"
_HOST_SHUTDOWN_TIMEOUT = 30
_AT_ONCE = 16
# What LXD calls a missing controller, its names in version 1 and 2, and what that means.
_CONTROLLERS = (
    ("CPU controller", ("cpu",), "limits.cpu.allowance and limits.cpu.priority are ignored"),
    ("CPUset controller", ("cpuset",), "limits.cpu does not bind instances to processors"),
    ("blkio", ("blkio", "io"), "limits of disks are ignored"),
    ("hugetlb controller", ("hugetlb",), "limits.hugepages.* are ignored"),
    ("memory controller", ("memory",), "limits.memory is ignored"),
    ("pids controller", ("pids",), "limits.processes is ignored"),
)


def tell_missing_controllers(svc: Instances) -> None:
    """Keep a warning for each kind of limit that this host cannot set."""
    warnings, layout = svc.ctx.warnings, cgroups.layout()
    open_ones = {warning.type for warning in warnings.all() if warning.status != "resolved"}
    for called, names, effect in _CONTROLLERS:
        kind = f"Couldn't find the CGroup {called}"
        if not any(layout.version(name) for name in names):
            warnings.warn(kind, effect)
        elif kind in open_ones:
            warnings.resolve(kind)


def wants_start(record: InstanceRecord, config: Mapping[str, str]) -> bool:
    """Shall the instance come up: as it says, else if it ran when the host went down."""
    autostart = config.get("boot.autostart")
    if autostart:
        return is_true(autostart)
    return record.config.get("volatile.last_state.power") == "RUNNING"


def _number(config: Mapping[str, str], key: str, default: int = 0) -> int:
    return int(config.get(key) or default)


def autostart(svc: Instances) -> None:
    """Start what shall run, highest ``boot.autostart.priority`` first, then by name."""
    entries = svc.expand_ids(inst.id for inst in svc.all() if not inst.is_running)
    entries = [e for e in entries if wants_start(e[0], e[1].config)]
    entries.sort(key=lambda e: (-_number(e[1].config, "boot.autostart.priority"), e[0].name))
    for record, expanded in entries:
        inst = svc.by_id(record.id)
        if inst is None:
            continue
        try:
            with svc.hold(inst, "start"):
                if not inst.is_running:
                    start.start(svc, inst)
                    svc.announce("instance-started", inst)
        except (LXDError, OSError, sqlite3.Error) as exc:  # one that cannot must not stop the rest
            LOG.error("Starting %s at boot failed: %s", inst, exc)
            svc.ctx.warnings.warn(
                _WARNING, str(exc), project=inst.project, entity_url=record.url, severity="low"
            )
            continue
        delay = _number(expanded.config, "boot.autostart.delay")
        if delay:
            time.sleep(delay)


def shutdown_all(svc: Instances) -> None:
    """Stop every running instance, highest ``boot.stop.priority`` first, equals side by side.

    Each gets ``boot.host_shutdown_timeout`` seconds before it is killed.
    They are recorded as running, so that the next start brings them up again.
    """
    entries = svc.expand_ids(inst.id for inst in svc.all() if inst.is_running)

    def priority(entry: tuple[InstanceRecord, Expanded]) -> int:
        return -_number(entry[1].config, "boot.stop.priority")

    entries.sort(key=priority)
    for _, group in groupby(entries, key=priority):
        with ThreadPoolExecutor(_AT_ONCE, "shutdown") as pool:
            for record, expanded in group:
                inst = svc.by_id(record.id)
                if inst is not None:
                    pool.submit(_down, svc, inst, _patience(expanded))


def _patience(expanded: Expanded) -> float:
    return _number(expanded.config, "boot.host_shutdown_timeout", _HOST_SHUTDOWN_TIMEOUT)


def _down(svc: Instances, inst: Instance, timeout: float) -> None:
    try:
        with svc.hold(inst, "stop", patience=timeout):
            if not inst.is_running:
                return
            try:
                stop.shutdown(svc, inst, timeout)
            except LXDError as exc:
                LOG.warning("Shutting down %s failed (%s); killing it", inst, exc)
            if inst.is_running:
                stop.stop(svc, inst)
            if svc.record(inst).ephemeral:
                delete.delete(svc, inst)
                return
            db_instances.set_config(
                svc.ctx.db, inst.id, {"volatile.last_state.power": "RUNNING"}
            )
    except LXDError as exc:
        LOG.error("Stopping %s at shut-down failed: %s", inst, exc)
