# SPDX-License-Identifier: Apache-2.0
"""Profiles and the instances that use them: checks, and changes applied live."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db.profiles import Devices, Profile
from nova_lxd.lxd.errors import BadRequest, LXDError
from nova_lxd.lxd.instances import config as instance_config
from nova_lxd.lxd.instances import deviceset, processors, rawlxc
from nova_lxd.lxd.schema import instancekeys

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


def check(svc: Instances, project: str, config: Mapping[str, str], devices: Devices) -> None:
    """:raises BadRequest: a key, value or device is invalid in a profile."""
    instancekeys.validate(config, profile=True)
    rawlxc.check(svc.ctx.liblxc, config)
    deviceset.validate(svc.ctx, devices, deviceset.profile_view(project, config, devices))


def changed(svc: Instances, project: str, old: Profile, new: Profile) -> None:
    """Apply a changed profile to the instances that use it; stored already.

    :raises BadRequest: some could not take it; the profile stays changed, as LXD leaves it.
    """
    failures = []
    before = svc.expander()
    before.with_changed(old)
    after = svc.expander()
    for record in db_instances.with_profile(svc.ctx.db, project, new.name):
        inst = svc.by_id(record.id)
        if inst is None:
            continue
        was = before.expand(record.project, record.profiles, record.config, record.devices)
        now = after.expand(record.project, record.profiles, record.config, record.devices)
        try:
            with svc.hold(inst, "update", patience=30.0), ExitStack() as undo:
                changes = instance_config.apply(svc, inst, record, was, now, undo)
                if changes or svc.record(inst).intent:
                    db_instances.set_config(svc.ctx.db, inst.id, changes, intent="")
                undo.pop_all()
                instance_config.tell_guest(svc, inst, was, now)
        except LXDError as exc:
            LOG.error("Applying profile %s to %s failed: %s", new.name, inst, exc)
            failures.append(f" - Project: {record.project}, Instance: {record.name}: {exc}")
    processors.rebalance(svc)
    if failures:
        raise BadRequest(
            "The following instances failed to update (profile change still saved):\n"
            + "\n".join(failures)
        )


def renamed(svc: Instances, project: str, old: str, new: str) -> None:
    """Rename a profile in the lists of the instances that use it; in the caller's transaction."""
    for record in db_instances.with_profile(svc.ctx.db, project, old):
        profiles = [new if name == old else name for name in record.profiles]
        db_instances.update(svc.ctx.db, record.id, profiles=profiles)
