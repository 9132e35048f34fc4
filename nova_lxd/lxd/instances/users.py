# SPDX-License-Identifier: Apache-2.0
"""Who uses a profile, custom volume or network: the ``used_by`` lists of other resources."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import profiles as db_profiles
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.profiles import Devices
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.instances import deviceset
from nova_lxd.lxd.paths import DEFAULT_PROJECT

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


def of_profiles(svc: Instances, project: str | None) -> dict[tuple[str, str], list[str]]:
    """Instance URLs by (project of the profile, profile)."""
    expander = svc.expander()
    found: dict[tuple[str, str], list[str]] = {}
    for record in db_instances.get_all(svc.ctx.db):
        where = expander.profiles_project(record.project)
        if project is not None and where != project:
            continue
        for name in record.profiles:
            url = with_project(record.url, record.project)
            found.setdefault((where, name), []).append(url)
    return found


def _all_devices(svc: Instances) -> Iterator[tuple[str, str, Devices]]:
    """(URL, project, devices) of every instance and profile, each its own devices."""
    expander = svc.expander()
    for record in db_instances.get_all(svc.ctx.db):
        expanded = expander.expand(
            record.project, record.profiles, record.config, record.devices
        )
        yield with_project(record.url, record.project), record.project, expanded.devices
    for profile in db_profiles.get_all(svc.ctx.db):
        url = with_project(f"/1.0/profiles/{profile.name}", profile.project)
        yield url, profile.project, profile.devices


def of_volumes(svc: Instances) -> dict[tuple[str, str, str], list[str]]:
    """URLs by (pool, project of the volume, volume) of the disks that are custom volumes."""
    own = {p.name: p.feature("storage.volumes") for p in db_projects.get_all(svc.ctx.db)}
    found: dict[tuple[str, str, str], list[str]] = {}
    for url, project, devices in _all_devices(svc):
        where = project if own.get(project) else DEFAULT_PROJECT
        for device in devices.values():
            if device.get("type") != "disk" or device.get("path") == "/":
                continue
            pool, source = device.get("pool"), device.get("source")
            if pool and source:
                found.setdefault((pool, where, source.removeprefix("custom/")), []).append(url)
    return found


def of_networks(svc: Instances) -> dict[str, list[str]]:
    """URLs by the network or bridge that their nics are on."""
    found: dict[str, list[str]] = {}
    for url, _project, devices in _all_devices(svc):
        names = {
            device.get("network") or device.get("parent") or ""
            for device in devices.values()
            if device.get("type") == "nic"
        }
        for name in sorted(names - {""}):
            found.setdefault(name, []).append(url)
    return found


def network_changed(svc: Instances, name: str) -> None:
    """Let the nics of running instances on a network apply it anew; failures are logged."""
    for inst in svc.all():
        running = inst.running
        if running is None:
            continue
        record = svc.record(inst)
        expanded = svc.expanded(record)
        seen = deviceset.view(svc.ctx, record, expanded, inst.idmap, running.init)
        for device_name, config in expanded.devices.items():
            if config.get("type") != "nic" or config.get("network") != name:
                continue
            try:
                deviceset.build(svc.ctx, device_name, config, seen).update(config)
            except (LXDError, OSError):
                LOG.exception("Updating %s of %s after a change of %s", device_name, inst, name)
