# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.images import upkeep
from nova_lxd.lxd.images.upkeep import Upkeep
from nova_lxd.tests.unit.images.conftest import Daemon
from nova_lxd.tests.unit.images.samples import unified


async def test_cached_images_expire(daemon: Daemon) -> None:
    kept = daemon.add(unified())
    cached = daemon.add(unified(more=b"1"), cached=True)
    used = daemon.add(unified(more=b"2"), cached=True)
    now = time.time()
    daemon.images.mark_used("default", used.fingerprint)
    daemon.images.upkeep.expire_cached(now + 9 * 86400)
    assert len(daemon.images.all("default")) == 3
    daemon.images.mark_used("default", used.fingerprint)
    later = now + 10 * 86400 + (used.uploaded_at - cached.uploaded_at) + 0.001
    daemon.images.upkeep.expire_cached(later)
    assert {image.fingerprint for image in daemon.images.all("default")} >= {kept.fingerprint}
    assert cached not in daemon.images.all("default")
    daemon.settings["images.remote_cache_expiry"] = "0"
    left = daemon.images.all("default")
    daemon.images.upkeep.expire_cached(now + 1000 * 86400)
    assert daemon.images.all("default") == left


async def test_an_image_that_cannot_be_deleted_does_not_keep_the_others(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = daemon.add(unified(more=b"1"), cached=True)
    daemon.add(unified(more=b"2"), cached=True)
    daemon.add(unified(more=b"3"), cached=True)
    delete = daemon.images.delete

    def refusing(image: Image) -> None:
        if image.fingerprint == held.fingerprint:
            raise LXDError("it is held")
        delete(image)

    monkeypatch.setattr(daemon.images, "delete", refusing)
    daemon.images.upkeep.expire_cached(time.time() + 11 * 86400)
    assert daemon.images.all("default") == [held]


async def test_a_daemon_restarted_every_day_lets_images_expire(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.add(unified(more=b"1"), cached=True)
    monkeypatch.setattr(upkeep, "_LOOK", 0.01)
    later = SimpleNamespace(time=lambda: time.time() + 11 * 86400, monotonic=time.monotonic)
    monkeypatch.setattr(upkeep, "time", later)
    begun = Upkeep(daemon.images)  # as the start of a daemon does: nothing of the last one's time
    begun.start()
    try:
        deadline = time.monotonic() + 10
        while daemon.images.all("default") and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
    finally:
        begun.stop()
    assert not daemon.images.all("default")
