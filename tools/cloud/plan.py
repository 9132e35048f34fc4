# SPDX-License-Identifier: Apache-2.0
"""All steps of a cloud, gathered from its families, and the order to undo them in."""

from __future__ import annotations

from cloud import (
    cinder,
    glance,
    horizon,
    hosts,
    keystone,
    lxd,
    mariadb,
    neutron,
    nova,
    outbound,
    ovn,
    packages,
    placement,
    rabbitmq,
    tenancy,
    venv,
)
from cloud.context import Cloud
from cloud.steps import Step

FAMILIES = (
    venv, mariadb, rabbitmq, hosts, ovn, outbound, keystone, glance, placement, neutron, nova,
    cinder, horizon, lxd, tenancy,
)


def steps(cloud: Cloud) -> list[Step]:
    """Everything that 'up' does before the first server."""
    return [
        Step("packages", lambda: packages.install(cloud, packages.wanted(cloud))),
        *(step for family in FAMILIES for step in family.steps(cloud)),
    ]


def service_levels(cloud: Cloud) -> list[list[str]]:
    """The names of the services; those of one level need only services of earlier ones."""
    todo = {step.name: set(step.needs) for step in steps(cloud)}
    levels: list[list[str]] = []
    while todo:
        free = [name for name, needs in todo.items() if not needs & todo.keys()]
        started = [name.removeprefix("start ") for name in free if name.startswith("start ")]
        if started:
            levels.append(started)
        for name in free:
            del todo[name]
    return levels
