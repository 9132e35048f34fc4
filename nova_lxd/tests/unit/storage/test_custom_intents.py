# SPDX-License-Identifier: Apache-2.0
"""What a killed daemon left half-made of a custom volume is finished or undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.storage import VolumeSnapshotRow
from nova_lxd.lxd.storage import custom_intents
from nova_lxd.lxd.storage.drivers.interface import Driver
from nova_lxd.lxd.storage.volume import Volume

V = "default_vol"


class Disk:
    """A driver's volumes, as full names."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def has(self, volume: Volume) -> bool:
        return volume.full_name in self.names

    def delete_volume(self, volume: Volume) -> None:
        self.names = {n for n in self.names if n.split("/")[0] != volume.name}

    def rename_volume(self, volume: Volume, name: str) -> None:
        self.names = {n.replace(volume.name, name, 1) for n in self.names}

    def restore_snapshot(self, snapshot: Volume) -> None:
        self.names.add(f"restored {snapshot.snapshot}")

    def delete_snapshot(self, snapshot: Volume) -> None:
        self.names.discard(snapshot.full_name)

    def rename_snapshot(self, snapshot: Volume, name: str) -> None:
        self.names.remove(snapshot.full_name)
        self.names.add(f"{snapshot.name}/{name}")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "db")
    db_storage.create_pool(database, "pool", "dir", "", {}, "Created")
    yield database
    database.close()


@pytest.mark.parametrize(
    ("intent", "before", "after", "snapshots"),
    [
        ("", {V, f"{V}/s0"}, {V, f"{V}/s0"}, ["s0"]),
        ("creating", {V}, set(), None),
        ("creating", set(), set(), None),
        ("deleting", {V, f"{V}/s0"}, set(), None),
        ("renaming:new", {"default_new", "default_new/s0"}, {V, f"{V}/s0"}, ["s0"]),
        ("renaming:new", {V, f"{V}/s0"}, {V, f"{V}/s0"}, ["s0"]),
        ("renaming:vol", {V, f"{V}/s0"}, {V, f"{V}/s0"}, ["s0"]),
        ("restoring:s0", {V, f"{V}/s0"}, {V, f"{V}/s0", "restored s0"}, ["s0"]),
        ("creating-snapshot:s1", {V, f"{V}/s0", f"{V}/s1"}, {V, f"{V}/s0"}, ["s0"]),
        ("creating-snapshot:s0", {V, f"{V}/s0"}, {V, f"{V}/s0"}, ["s0"]),
        ("deleting-snapshot:s0", {V, f"{V}/s0"}, {V}, []),
        ("deleting-snapshot:s0", {V}, {V}, []),
        ("renaming-snapshot:s0/s1", {V, f"{V}/s1"}, {V, f"{V}/s0"}, ["s0"]),
        ("renaming-snapshot:s0/s1", {V, f"{V}/s0"}, {V, f"{V}/s0"}, ["s0"]),
        ("renaming-snapshot:old/s0", {V, f"{V}/s0"}, {V, f"{V}/s0"}, ["s0"]),
    ],
)
def test_settle(
    db: Database, intent: str, before: set[str], after: set[str], snapshots: list[str] | None
) -> None:
    row_id = db_storage.create_volume(db, "pool", "default", "vol", "", "filesystem", {}, intent)
    db_storage.put_volume_snapshot(db, VolumeSnapshotRow(row_id, "s0", "", {}, 1.0, 0.0))
    row = db_storage.volume(db, "pool", "default", "vol")
    assert row is not None
    disk = Disk(*before)
    custom_intents.settle(db, cast(Driver, disk), row)
    assert disk.names == after
    settled = db_storage.volume(db, "pool", "default", "vol")
    if snapshots is None:
        assert settled is None
    else:
        assert settled is not None and settled.intent == ""
        assert [s.name for s in db_storage.volume_snapshots(db, row_id)] == snapshots
