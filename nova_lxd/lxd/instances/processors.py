# SPDX-License-Identifier: Apache-2.0
"""``limits.cpu``: spreads the running instances that have it over the host's processors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nova_lxd.lxd.host import cgroup_settings as cs
from nova_lxd.lxd.instances import limits
from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


def for_start(svc: Instances, inst: Instance, config: Mapping[str, str]) -> str:
    """The processors of an instance that is about to start; empty for all."""
    if not config.get("limits.cpu"):
        return ""
    wishes = {**_limited(svc), inst.id: config}
    cpus = limits.spread(wishes).get(inst.id, "")
    svc.cpus[inst.id] = cpus
    return cpus


def _limited(svc: Instances) -> dict[int, Mapping[str, str]]:
    """The expanded configuration of the running instances that have limits.cpu."""
    ids = [inst.id for inst in svc.all() if inst.is_running and inst.id in svc.cpus]
    found: dict[int, Mapping[str, str]] = {}
    for record, expanded in svc.expand_ids(ids):
        if expanded.config.get("limits.cpu"):
            found[record.id] = expanded.config
    return found


def rebalance(svc: Instances) -> None:
    """Write what changed into running instances; called after starts, ends and changes."""
    if not svc.cpus:
        return
    with svc.cpus_lock:
        wanted = limits.spread(_limited(svc))
        everything = limits.format_cpus(limits.host_cpus())
        for inst in svc.all():
            if inst.id not in svc.cpus:
                continue
            if not inst.is_running:
                del svc.cpus[inst.id]
                continue
            cpus = wanted.get(inst.id, everything)
            if cpus != svc.cpus[inst.id]:
                _apply(svc, inst, cpus)
            if inst.id in wanted:
                svc.cpus[inst.id] = cpus
            else:
                del svc.cpus[inst.id]


def _apply(svc: Instances, inst: Instance, cpus: str) -> None:
    try:
        group = svc.cgroup(inst)
        if group is not None:
            group.apply([cs.cpu_set(cpus)])
    except (ProcessLookupError, FileNotFoundError):
        LOG.debug("%s ended while its processors were set", inst)
