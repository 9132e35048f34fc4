# SPDX-License-Identifier: Apache-2.0
"""Custom volumes are snapshotted when they are due, and expired snapshots go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.storage import VolumeRow, VolumeSnapshotRow
from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.instances import schedule

NOON = datetime(2026, 3, 4, 12, 0)


class Volumes:
    """As much of CustomVolumes as the schedule needs; ``broken`` ones refuse everything."""

    def __init__(self, db: Database, broken: str = "") -> None:
        self.db = db
        self.broken = broken

    def all(self) -> list[VolumeRow]:
        return db_storage.volumes(self.db)

    def snapshots(self, row: VolumeRow) -> list[VolumeSnapshotRow]:
        return db_storage.volume_snapshots(self.db, row.id)

    def create_snapshot(
        self, row: VolumeRow, name: str, expires_at: float, requestor: Mapping[str, Any]
    ) -> None:
        if row.name == self.broken:
            raise InternalError("it is broken")
        snapshot = VolumeSnapshotRow(row.id, name, "", {}, NOON.timestamp(), expires_at)
        db_storage.put_volume_snapshot(self.db, snapshot)

    def delete_snapshot(self, row: VolumeRow, name: str, requestor: Mapping[str, Any]) -> None:
        if row.name == self.broken:
            raise InternalError("it is broken")
        db_storage.delete_volume_snapshot(self.db, row.id, name)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "db")
    db_storage.create_pool(database, "pool", "dir", "", {}, "Created")
    yield database
    database.close()


def make(db: Database, name: str, **config: str) -> None:
    keys = {f"snapshots.{key}": value for key, value in config.items()}
    db_storage.create_volume(db, "pool", "default", name, "", "filesystem", keys, "")


def found(db: Database, name: str) -> dict[str, float]:
    row = db_storage.volume(db, "pool", "default", name)
    assert row is not None
    return {s.name: s.expires_at for s in db_storage.volume_snapshots(db, row.id)}


def test_due_volumes_are_snapshotted(db: Database) -> None:
    make(db, "broken", schedule="0 12 * * *")
    make(db, "due", schedule="0 12 * * *", expiry="1H", pattern="auto%d")
    make(db, "later", schedule="0 13 * * *")
    make(db, "never")
    volumes: Any = Volumes(db, "broken")
    for _ in range(2):
        schedule.take_due_of_volumes(volumes, NOON)
    hour_later = NOON.timestamp() + 3600
    assert found(db, "due") == {"auto0": hour_later, "auto1": hour_later}
    assert found(db, "broken") == found(db, "later") == found(db, "never") == {}


def test_expired_snapshots_go(db: Database) -> None:
    make(db, "broken", schedule="0 12 * * *", expiry="1M")
    make(db, "short", schedule="0 12 * * *", expiry="1M")
    make(db, "forever", schedule="0 12 * * *")
    working: Any = Volumes(db)
    schedule.take_due_of_volumes(working, NOON)
    volumes: Any = Volumes(db, "broken")
    schedule.remove_expired_of_volumes(volumes, NOON.timestamp() + 59)
    assert list(found(db, "short")) == ["snap0"]
    schedule.remove_expired_of_volumes(volumes, NOON.timestamp() + 60)
    assert found(db, "short") == {}
    assert list(found(db, "broken")) == list(found(db, "forever")) == ["snap0"]


# -- minutes ----------------------------------------------------------------------------------

START = NOON.timestamp()


def told(minutes: schedule.Minutes, seconds: float) -> list[int]:
    """The minutes that are due so many seconds after noon, counted from noon."""
    return [round((when.timestamp() - START) / 60) for when in minutes.due(START + seconds)]


def test_each_minute_is_due_once() -> None:
    minutes = schedule.Minutes(START + 3)
    assert told(minutes, 59.999) == [], "woken too early: this minute has been"
    assert told(minutes, 60.0) == [1]
    assert told(minutes, 60.2) == []
    assert told(minutes, 120.1) == [2]


def test_minutes_that_a_long_round_took_are_made_up_for() -> None:
    minutes = schedule.Minutes(START)
    assert told(minutes, 200) == [1, 2, 3]
    assert told(minutes, 240) == [4]


@pytest.mark.parametrize("days", [-365, -1, 1, 3650])
def test_a_clock_that_is_set_is_followed(days: int) -> None:
    minutes, jump = schedule.Minutes(START), days * 86400
    assert told(minutes, jump) == [jump // 60], "none of what lies between"
    assert told(minutes, jump + 60) == [jump // 60 + 1]


def test_minutes_are_not_repeated_when_the_clock_is_set_back_a_little() -> None:
    minutes = schedule.Minutes(START)
    assert told(minutes, 60) == [1]
    assert told(minutes, -180) == []
    assert told(minutes, 0) == []
    assert told(minutes, 60) == []
    assert told(minutes, 120) == [2]


def test_one_snapshot_is_taken_for_several_minutes(db: Database) -> None:
    make(db, "often", schedule="* * * * *")
    volumes = Volumes(db)
    due = [datetime(2026, 3, 4, 12, minute) for minute in range(3)]
    schedule.take_due_of_volumes(volumes, *due)  # type: ignore[arg-type]
    assert len(volumes.snapshots(volumes.all()[0])) == 1
