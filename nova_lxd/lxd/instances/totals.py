# SPDX-License-Identifier: Apache-2.0
"""What the instances of a project may use together (LXD's ``GET /1.0/projects/NAME/state``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.instances import limits
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.schema.instancevalues import parse_cpu_set
from nova_lxd.lxd.schema.sizes import parse_size

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances


@dataclass(frozen=True)
class Totals:
    """Sums of limits; an instance without one counts as nothing. Memory and disk in bytes."""

    instances: int
    cpu: int
    memory: int
    processes: int
    disk: int


def of_project(svc: Instances, project: str) -> Totals:
    """The totals of one project's instances, root disks included."""
    expander = svc.expander()
    return add_up(
        expander.expand(record.project, record.profiles, record.config, record.devices)
        for record in db_instances.get_all(svc.ctx.db, project)
    )


def add_up(instances: Iterable[Expanded]) -> Totals:
    """The totals of instances."""
    count = cpu = memory = processes = disk = 0
    for each in instances:
        count += 1
        cpu += _cpus(each.config.get("limits.cpu", ""))
        memory += max(0, limits.memory_bytes(each.config.get("limits.memory", "")))
        processes += int(each.config.get("limits.processes") or 0)
        if each.root is not None:
            disk += parse_size(each.root[1].get("size", ""))
    return Totals(count, cpu, memory, processes, disk)


def _cpus(value: str) -> int:
    """How many processors ``limits.cpu`` gives: a number, or a set."""
    if not value:
        return 0
    return int(value) if value.isdigit() else len(parse_cpu_set(value))
