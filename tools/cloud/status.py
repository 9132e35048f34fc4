# SPDX-License-Identifier: Apache-2.0
"""The state of every service, as a table."""

from __future__ import annotations

import time

from cloud import plan
from cloud.context import Cloud
from cloud.services import Service


def services(cloud: Cloud) -> dict[str, Service]:
    """Every service that was ever started, in the order of starting."""
    found = {}
    for path in cloud.layout.units.glob("*.json"):
        service = Service.from_json(path.read_text())
        found[service.name] = service
    order = [name for level in plan.service_levels(cloud) for name in level]
    known = [name for name in order if name in found]
    return {name: found[name] for name in known + sorted(found.keys() - set(known))}


def table(cloud: Cloud) -> tuple[list[str], bool]:
    """(lines for the terminal, whether everything is well)."""
    conditions = cloud.controller.conditions()
    lines = [f"{'service':<32} {'health':<12} {'pid':>7} {'up':>8} {'restarts':>8}  log"]
    well = bool(conditions)
    for name, service in services(cloud).items():
        condition = conditions.get(name)
        health, pid, up, restarts = "stopped", "", "", ""
        if condition is not None:
            restarts = str(condition.restarts)
            health = condition.state
            if condition.state == "running":
                health = "answers" if service.probe.answers(2.0) else "no answer"
                if service.probe.kind == "alive":
                    health = "running"
                pid = str(condition.pid)
                up = duration(time.time() - condition.since)
        well = well and health in ("answers", "running")
        lines.append(f"{name:<32} {health:<12} {pid:>7} {up:>8} {restarts:>8}  "
                     f"{service.tail or service.log}")
    return lines, well


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42s, 3m10s, 2h05m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
