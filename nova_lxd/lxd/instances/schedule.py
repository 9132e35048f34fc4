# SPDX-License-Identifier: Apache-2.0
"""The thread that takes scheduled snapshots and removes expired ones and backups, each minute.

It looks after instances and custom volumes alike.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.instances import backup, snapshots, timespan
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.schema import cron
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.storage.custom import CustomVolumes

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
_MINUTE = 60.0
_PATIENCE = 30.0


# Minutes that are made up for when a round has taken so long, or the clock was set.
_CATCH_UP = 15


class Minutes:
    """Tells which minutes are due: each once, whenever it is asked and however the clock runs.

    A clock that is set further than :data:`_CATCH_UP` minutes is followed: what lies between
    is neither made up for nor waited for.
    """

    def __init__(self, now: float) -> None:
        self._last = int(now // _MINUTE)

    def due(self, now: float) -> list[datetime]:
        """The minutes (local time) that have begun since the last call."""
        minute = int(now // _MINUTE)
        gap = minute - self._last
        if -_CATCH_UP <= gap <= 0:  # woken too early, or set back a little: they have been
            return []
        first = self._last + 1 if 0 < gap <= _CATCH_UP else minute
        self._last = minute
        return [datetime.fromtimestamp(each * _MINUTE) for each in range(first, minute + 1)]


class Scheduler:
    """Wakes at the start of every minute."""

    def __init__(self, svc: Instances) -> None:
        self._svc = svc
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; a snapshot in the making is finished."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        minutes = Minutes(time.time())
        while not self._ended.wait(_MINUTE - time.time() % _MINUTE):
            try:
                due = minutes.due(time.time())
                if not due:
                    continue
                take_due(self._svc, *due)
                remove_expired(self._svc, time.time())
                backup.remove_expired(self._svc, time.time())
                volumes = self._svc.ctx.storage.volumes
                take_due_of_volumes(volumes, *due)
                remove_expired_of_volumes(volumes, time.time())
            except Exception:
                LOG.exception("Looking after snapshots and backups failed; trying again")


def take_due(svc: Instances, *minutes: datetime) -> None:
    """Take the snapshots that are due in any of these minutes (local time), one of each."""
    records = db_instances.get_all(svc.ctx.db)
    expander = svc.expander()
    for record in records:
        config = expander.expand(
            record.project, record.profiles, record.config, record.devices
        ).config
        text = config.get("snapshots.schedule")
        inst = svc.by_id(record.id)
        if not text or inst is None or not _matches(text, minutes):
            continue
        if inst.is_running or is_true(config.get("snapshots.schedule.stopped")):
            take(svc, inst)


def _matches(text: str, minutes: Sequence[datetime]) -> bool:
    schedule = cron.parse(text)
    return any(schedule.matches(minute) for minute in minutes)


def take(svc: Instances, inst: Instance) -> None:
    """Take one scheduled snapshot; a failure is logged, the others go on."""
    try:
        with svc.hold(inst, "snapshot", patience=_PATIENCE):
            record = svc.record(inst)
            pattern = svc.expanded(record).config.get("snapshots.pattern", "")
            snapshots.create(svc, inst, snapshots.next_name(svc, record, pattern))
    except LXDError as exc:
        LOG.error("The scheduled snapshot of %s failed: %s", inst, exc)


def remove_expired(svc: Instances, now: float) -> None:
    """Remove the snapshots whose time has come."""
    for instance_id, name in db_snapshots.expired(svc.ctx.db, now):
        inst = svc.by_id(instance_id)
        if inst is None:
            continue
        try:
            with svc.hold(inst, "snapshot-delete", patience=_PATIENCE):
                snapshots.delete(svc, inst, name)
        except LXDError as exc:
            LOG.error("Removing the expired snapshot %s of %s failed: %s", name, inst, exc)


def take_due_of_volumes(volumes: CustomVolumes, *minutes: datetime) -> None:
    """Snapshot the custom volumes that are due in any of these minutes (local time)."""
    for row in volumes.all():
        text = row.config.get("snapshots.schedule")
        if not text or not _matches(text, minutes):
            continue
        try:
            taken = {snapshot.name for snapshot in volumes.snapshots(row)}
            name = snapshots.free_name(row.config.get("snapshots.pattern", ""), taken)
            volumes.create_snapshot(row, name, expiry(row.config, minutes[-1].timestamp()), {})
        except LXDError as exc:
            LOG.error("The scheduled snapshot of volume %s failed: %s", row.name, exc)


def expiry(config: Mapping[str, str], now: float) -> float:
    """When a snapshot taken now expires by ``snapshots.expiry``; 0 for never."""
    span = config.get("snapshots.expiry", "")
    return timespan.after(span, now) if span else 0.0


def remove_expired_of_volumes(volumes: CustomVolumes, now: float) -> None:
    """Remove the snapshots of custom volumes whose time has come."""
    for row in volumes.all():
        for snapshot in volumes.snapshots(row):
            if not 0 < snapshot.expires_at <= now:
                continue
            try:
                volumes.delete_snapshot(row, snapshot.name, {})
            except LXDError as exc:
                LOG.error(
                    "Removing the expired snapshot %s of volume %s failed: %s",
                    snapshot.name,
                    row.name,
                    exc,
                )
