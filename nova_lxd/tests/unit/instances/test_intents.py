# SPDX-License-Identifier: Apache-2.0
"""What a killed daemon left half-made is finished or undone, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.instances import delete, intents
from nova_lxd.lxd.instances.expand import Expander
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.storage.volume import Volume


@dataclass
class FakeDriver:
    """Volumes by full name."""

    names: set[str] = field(default_factory=set)

    def has(self, volume: Volume) -> bool:
        return volume.full_name in self.names

    def delete_volume(self, volume: Volume) -> None:
        self.names = {n for n in self.names if n.split("/")[0] != volume.name}

    def rename_volume(self, volume: Volume, name: str) -> None:
        self.names.remove(volume.name)
        self.names.add(name)

    def restore_snapshot(self, snapshot: Volume) -> None:
        assert snapshot.full_name in self.names
        self.names.add(f"{snapshot.name} as of {snapshot.snapshot}, {snapshot.size} bytes")

    def delete_snapshot(self, snapshot: Volume) -> None:
        self.names.discard(snapshot.full_name)

    def rename_snapshot(self, snapshot: Volume, name: str) -> None:
        self.names.remove(snapshot.full_name)
        self.names.add(f"{snapshot.name}/{name}")


class FakeInstances:
    """As much of the registry as settling needs."""

    def __init__(self, tmp_path: Path, db: Database, pools: dict[str, FakeDriver]) -> None:
        storage = SimpleNamespace(get=lambda name: SimpleNamespace(driver=pools[name]))
        self.ctx = SimpleNamespace(db=db, paths=Paths(tmp_path), storage=storage)
        self.dropped: list[int] = []

    def expander(self) -> Expander:
        return Expander(self.ctx.db)

    def drop(self, inst: Instance) -> None:
        self.dropped.append(inst.id)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "db")
    yield database
    database.close()


def settle(svc: FakeInstances, db: Database, intent: str) -> InstanceRecord:
    record = InstanceRecord("default", "c1", "x86_64", "p1", 1.0, intent=intent)
    record = db_instances.create(db, record)
    intents.settle(svc, Instance.of(record), record)  # type: ignore[arg-type]
    return record


@pytest.mark.parametrize("intent", ["create", "delete"])
def test_half_made_and_half_deleted_instances_go(
    intent: str, tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[Any] = []
    monkeypatch.setattr(delete, "finish", lambda _svc, record: finished.append(record.name))
    svc = FakeInstances(tmp_path, db, {})
    record = settle(svc, db, intent)
    assert finished == ["c1"] and svc.dropped == [record.id]


def test_nothing_happens_without_an_intent(tmp_path: Path, db: Database) -> None:
    driver = FakeDriver({"c1"})
    settle(FakeInstances(tmp_path, db, {"p1": driver}), db, "")
    assert driver.names == {"c1"}


def test_rename_that_was_not_recorded_is_undone(tmp_path: Path, db: Database) -> None:
    driver = FakeDriver({"new"})
    record = settle(FakeInstances(tmp_path, db, {"p1": driver}), db, "rename:default/new")
    assert driver.names == {"c1"}
    found = db_instances.get_by_id(db, record.id)
    assert found is not None and (found.name, found.intent) == ("c1", "")
    assert (tmp_path / "containers/c1").readlink() == tmp_path / "storage-pools/p1/containers/c1"


def test_rename_that_had_not_begun_leaves_the_volume(tmp_path: Path, db: Database) -> None:
    driver = FakeDriver({"c1", "new"})
    settle(FakeInstances(tmp_path, db, {"p1": driver}), db, "rename:default/new")
    assert driver.names == {"c1", "new"}


def test_the_other_copy_of_a_move_is_given_up(tmp_path: Path, db: Database) -> None:
    here, there = FakeDriver({"c1"}), FakeDriver({"c1", "c1/s0"})
    settle(FakeInstances(tmp_path, db, {"p1": here, "p2": there}), db, "move:p2")
    assert (here.names, there.names) == ({"c1"}, set())


@pytest.mark.parametrize(
    ("intent", "on_disk", "then", "recorded"),
    [
        ("create", {"c1/s0"}, set(), []),
        ("delete", {"c1/s0"}, set(), []),
        ("rename:s1", {"c1/s1"}, {"c1/s0"}, ["s0"]),
        ("rename:s1", {"c1/s0"}, {"c1/s0"}, ["s0"]),
        ("", {"c1/s0"}, {"c1/s0"}, ["s0"]),
    ],
)
def test_snapshots(
    intent: str,
    on_disk: set[str],
    then: set[str],
    recorded: list[str],
    tmp_path: Path,
    db: Database,
) -> None:
    driver = FakeDriver(on_disk)
    svc = FakeInstances(tmp_path, db, {"p1": driver})
    record = db_instances.create(db, InstanceRecord("default", "c1", "x86_64", "p1", 1.0))
    snapshot = db_snapshots.create(db, SnapshotRecord(record.id, "s0", "x86_64", 1.0))
    db_snapshots.update(db, snapshot.id, intent=intent)
    intents.settle_snapshot(svc, record, replace(snapshot, intent=intent))  # type: ignore[arg-type]
    assert driver.names == then
    left = db_snapshots.of_instance(db, record.id)
    assert [s.name for s in left] == recorded and not any(s.intent for s in left)


@pytest.mark.parametrize(("others", "linked"), [((), False), (("s1",), True)])
def test_link_to_snapshots_goes_with_the_last(
    others: tuple[str, ...], linked: bool, tmp_path: Path, db: Database
) -> None:
    svc = FakeInstances(tmp_path, db, {"p1": FakeDriver({"c1/s0"})})
    record = db_instances.create(db, InstanceRecord("default", "c1", "x86_64", "p1", 1.0))
    for name in ("s0", *others):
        snapshot = SnapshotRecord(record.id, name, "x86_64", 1.0)
        created = db_snapshots.create(db, snapshot)
        if name == "s0":
            half_made = replace(created, intent="create")
    link = svc.ctx.paths.snapshots / "c1"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    intents.settle_snapshot(svc, record, half_made)  # type: ignore[arg-type]
    assert link.is_symlink() == linked


def test_restore_is_done_again(tmp_path: Path, db: Database) -> None:
    driver = FakeDriver({"c1", "c1/s0"})
    svc = FakeInstances(tmp_path, db, {"p1": driver})
    now = {"user.a": "new", "volatile.uuid": "same"}
    record = InstanceRecord("default", "c1", "x86_64", "p1", 1.0, config=now, intent="restore:s0")
    record = db_instances.create(db, record)
    then = {"user.a": "old", "volatile.uuid": "other"}
    root = {"root": {"type": "disk", "path": "/", "pool": "p1", "size": "5MiB"}}
    snapshot = SnapshotRecord(record.id, "s0", "x86_64", 1.0, config=then, devices=root)
    db_snapshots.create(db, snapshot)
    intents.settle(svc, Instance.of(record), record)  # type: ignore[arg-type]
    # As large as it is from then on, which the snapshot's devices say.
    assert f"c1 as of s0, {5 * 1024**2} bytes" in driver.names
    found = db_instances.get_by_id(db, record.id)
    assert found is not None and found.intent == ""
    assert (found.config["user.a"], found.config["volatile.uuid"]) == ("old", "same")
