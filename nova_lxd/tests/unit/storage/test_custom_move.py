# SPDX-License-Identifier: Apache-2.0
"""A move between pools that ends half-way leaves the volume in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from nova_lxd.lxd.db import storage as db_storage
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.storage.custom import CustomVolumes
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.volume import Volume


class Killed(BaseException):
    """Stands for the end of the daemon: nothing below catches it but what undoes."""


class Memory:
    """A pool and its driver in one: the names of its volumes."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.killed_by_delete = False

    @property
    def driver(self) -> Memory:
        return self

    def with_defaults(self, volume: Volume) -> Volume:
        return volume

    def create_volume(self, volume: Volume) -> None:
        self.names.add(volume.name)

    def copy_from(
        self, volume: Volume, _origin: Memory, _content: Volume, _snapshots: Sequence[str]
    ) -> None:
        self.names.add(volume.name)

    def delete_volume(self, volume: Volume) -> None:
        if self.killed_by_delete:
            raise Killed
        self.names.discard(volume.name)


class Silent:
    def lifecycle(self, *_args: Any, **_kwargs: Any) -> None:
        return None


@pytest.fixture
def pools() -> dict[str, Memory]:
    return {"one": Memory(), "two": Memory()}


@pytest.fixture
def volumes(tmp_path: Path, pools: dict[str, Memory]) -> Iterator[CustomVolumes]:
    db = Database(tmp_path / "db")
    for name in pools:
        db_storage.create_pool(db, name, "dir", "", {}, "Created")
    made = CustomVolumes(db, cast(Any, Silent()), lambda n: cast(Pool, pools[n]), lambda: {})
    made.create("one", "default", "v", "", "filesystem", {}, {})
    yield made
    db.close()


def places(volumes: CustomVolumes) -> list[str]:
    return [row.pool for row in volumes.all()]


def test_killed_once_the_copy_is_whole(volumes: CustomVolumes, pools: dict[str, Memory]) -> None:
    pools["one"].killed_by_delete = True
    with pytest.raises(Killed):
        volumes.move(volumes.get("one", "default", "v"), "two", "default", "v", {})
    pools["one"].killed_by_delete = False
    for name in pools:
        volumes.reconcile(name)
    assert places(volumes) == ["two"]
    assert (pools["one"].names, pools["two"].names) == (set(), {"default_v"})


def test_killed_while_it_is_copied(
    volumes: CustomVolumes, pools: dict[str, Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(volume: Volume, *_args: object) -> None:
        pools["two"].names.add(volume.name)
        raise Killed

    monkeypatch.setattr(pools["two"], "copy_from", half)
    # What is undone on the way out must not be needed: a killed daemon undoes nothing.
    monkeypatch.setattr(db_storage, "delete_volume", lambda *_args: None)
    with pytest.raises(Killed):
        volumes.move(volumes.get("one", "default", "v"), "two", "default", "v", {})
    monkeypatch.undo()
    for name in pools:
        volumes.reconcile(name)
    assert places(volumes) == ["one"]
    assert (pools["one"].names, pools["two"].names) == ({"default_v"}, set())


def test_move_leaves_nothing_behind(volumes: CustomVolumes, pools: dict[str, Memory]) -> None:
    volumes.move(volumes.get("one", "default", "v"), "two", "default", "w", {})
    assert [(row.pool, row.name, row.intent) for row in volumes.all()] == [("two", "w", "")]
    assert (pools["one"].names, pools["two"].names) == (set(), {"default_w"})
