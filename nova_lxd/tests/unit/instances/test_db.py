# SPDX-License-Identifier: Apache-2.0
"""Instances and snapshots in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "db")
    db_projects.create(database, "own", "", {"features.profiles": "true"})
    db_projects.create(database, "shared", "", {"features.profiles": "false"})
    yield database
    database.close()


def record(name: str = "c1", project: str = "default") -> InstanceRecord:
    return InstanceRecord(project, name, "x86_64", "pool", 5.0, profiles=["default"])


def test_round_trip(db: Database) -> None:
    full = replace(
        record(), config={"user.a": "1"}, devices={"root": {"type": "disk"}}, ephemeral=True
    )
    made = db_instances.create(db, full)
    assert db_instances.get(db, "default", "c1") == made
    assert db_instances.get_by_id(db, made.id) == made
    assert db_instances.get(db, "own", "c1") is None


def test_names_are_unique_per_project(db: Database) -> None:
    db_instances.create(db, record())
    db_instances.create(db, record(project="own"))
    with pytest.raises(sqlite3.IntegrityError):
        db_instances.create(db, record())


def test_rename_across_projects_does_not_meet_its_old_name(db: Database) -> None:
    db_instances.create(db, record())
    mine = db_instances.create(db, record(project="own"))
    db_instances.rename(db, mine.id, "default", "c2")
    assert [r.name for r in db_instances.get_all(db, "default")] == ["c1", "c2"]
    with pytest.raises(sqlite3.IntegrityError):
        db_instances.rename(db, mine.id, "default", "c1")


def test_single_keys_and_columns_change_together(db: Database) -> None:
    made = db_instances.create(db, replace(record(), config={"a": "1", "b": "2"}))
    assert db_instances.set_config(db, made.id, {"a": None, "c": "3"}, intent="x") == {
        "b": "2",
        "c": "3",
    }
    found = db_instances.get_by_id(db, made.id)
    assert found is not None and (found.config, found.intent) == ({"b": "2", "c": "3"}, "x")


def test_profile_users_follow_the_projects_feature(db: Database) -> None:
    for project in ("default", "own", "shared"):
        db_instances.create(db, record(project=project))
    assert [r.project for r in db_instances.with_profile(db, "default", "default")] == [
        "default",
        "shared",
    ]
    assert [r.project for r in db_instances.with_profile(db, "own", "default")] == ["own"]


def test_snapshots_go_with_their_instance(db: Database) -> None:
    made = db_instances.create(db, record())
    for i, name in enumerate(("b", "a")):
        db_snapshots.create(
            db, SnapshotRecord(made.id, name, "x86_64", float(i), expires_at=float(i))
        )
    assert [s.name for s in db_snapshots.of_instance(db, made.id)] == ["b", "a"]
    assert db_snapshots.expired(db, 2.0) == [(made.id, "a")]
    db_instances.delete(db, made.id)
    assert db_snapshots.of_all(db) == {}


def test_generation_tells_of_commits_only(db: Database) -> None:
    before = db.generation
    with pytest.raises(ZeroDivisionError), db.write():
        raise ZeroDivisionError
    assert db.generation == before
    db_instances.create(db, record())
    assert db.generation > before
