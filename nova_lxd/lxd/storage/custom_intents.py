# SPDX-License-Identifier: Apache-2.0
"""What a daemon that was killed had begun with a custom volume: finish it or undo it.

An intent in the database is a verb and, after a colon, its target.
"""

from __future__ import annotations

import logging

from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.storage import VolumeRow
from nova_lxd.lxd.storage.drivers.interface import Driver
from nova_lxd.lxd.storage.volume import ContentType, Volume, VolumeType, custom_name

LOG = logging.getLogger(__name__)
CREATE = "creating"
DELETE = "deleting"
RENAME = "renaming"  # :NEW
RESTORE = "restoring"  # :SNAPSHOT
CREATE_SNAPSHOT = "creating-snapshot"  # :SNAPSHOT
DELETE_SNAPSHOT = "deleting-snapshot"  # :SNAPSHOT
RENAME_SNAPSHOT = "renaming-snapshot"  # :OLD/NEW


def volume_of(row: VolumeRow) -> Volume:
    """The stored volume as its pool's driver knows it."""
    name = custom_name(row.project, row.name)
    return Volume(VolumeType.CUSTOM, name, None, ContentType(row.content_type), row.config)


def settle(db: Database, driver: Driver, row: VolumeRow) -> None:
    """Settle a volume's intent; a half-made or half-deleted one is gone afterwards."""
    if not row.intent:
        return
    LOG.warning(
        "Custom volume %s of pool %s was left in the middle of %r; settling it",
        row.name,
        row.pool,
        row.intent,
    )
    verb, _, target = row.intent.partition(":")
    volume = volume_of(row)
    if verb in (CREATE, DELETE):
        driver.delete_volume(volume)
        db_storage.delete_volume(db, row.id)
        return
    if verb == RENAME:
        new = volume.renamed(custom_name(row.project, target))
        if new != volume and driver.has(new) and not driver.has(volume):
            driver.rename_volume(new, volume.name)
    elif verb == RESTORE:
        driver.restore_snapshot(volume.at(target))
    else:
        _settle_snapshot(db, driver, row, verb, target)
    db_storage.set_volume_intent(db, row.id, "")


def _settle_snapshot(db: Database, driver: Driver, row: VolumeRow, verb: str, target: str) -> None:
    volume = volume_of(row)
    recorded = {snapshot.name for snapshot in db_storage.volume_snapshots(db, row.id)}
    if verb == CREATE_SNAPSHOT and target not in recorded:
        driver.delete_snapshot(volume.at(target))
    elif verb == DELETE_SNAPSHOT:
        driver.delete_snapshot(volume.at(target))
        db_storage.delete_volume_snapshot(db, row.id, target)
    elif verb == RENAME_SNAPSHOT:
        old, _, new = target.partition("/")
        if old in recorded and driver.has(volume.at(new)):
            driver.rename_snapshot(volume.at(new), old)
