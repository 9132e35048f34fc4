# SPDX-License-Identifier: Apache-2.0
"""inotify: what is told of names that come and go, and of directories that are gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nova_lxd.lxd.host.inotify import Change, Inotify


@pytest.fixture
def inotify() -> Iterator[Inotify]:
    with closing(Inotify()) as opened:
        yield opened


def test_names_that_come_and_go(inotify: Inotify, tmp_path: Path) -> None:
    watch = inotify.watch(str(tmp_path))
    assert list(inotify.changes()) == []
    (tmp_path / "a").touch()
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b").unlink()
    assert list(inotify.changes()) == [Change(watch, name) for name in ("a", "a", "b", "b")]


def test_one_watch_for_one_directory(inotify: Inotify, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert inotify.watch(str(tmp_path)) == inotify.watch(str(tmp_path / "link"))


def test_a_directory_that_goes_is_told_and_its_watch_may_be_ended(
    inotify: Inotify, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    watch = inotify.watch(str(top))
    top.rmdir()
    assert Change(watch, "") in list(inotify.changes())
    inotify.unwatch(watch)
    with pytest.raises(FileNotFoundError):
        inotify.watch(str(top))
