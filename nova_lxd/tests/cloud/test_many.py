# SPDX-License-Identifier: Apache-2.0
"""Many servers at once, and nothing of them afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nova_lxd.tests.cloud import audit
from nova_lxd.tests.cloud.world import World, eventually


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.full)])
def test_at_once(admin: World, world: World, state: Path, count: int,
                 record_property: Callable[[str, object], None]) -> None:
    """All ACTIVE; after their deletion the host has what it had before.

    The fixtures' order matters: the quota shrinks again only after the servers have gone.
    """
    project = admin.api.identity.find_project("demo")
    before_quota = admin.api.compute.get_quota_set(project)
    wishes = {"instances": 40, "cores": 40}
    admin.api.compute.update_quota_set(project, **wishes)
    admin.undo.callback(admin.api.compute.update_quota_set, project,
                        **{name: getattr(before_quota, name) for name in wishes})
    before = audit.inventory(state)
    started = time.monotonic()
    servers = [world.create(f"many-{number}", image="busybox", flavor="c1.tiny")
               for number in range(count)]
    for server in servers:
        world.wait_active(server, 300)
    record_property("seconds until all are ACTIVE", round(time.monotonic() - started, 1))
    during = audit.inventory(state)
    assert len(during["containers"] - before["containers"]) == count
    assert len(during["switch ports"] - before["switch ports"]) >= count

    for server in servers:
        world.api.compute.delete_server(server)
    for server in servers:
        world.delete(server)
    eventually("the removal of everything", 60,
               lambda: not audit.difference(before, audit.inventory(state)))


def test_deleted_snapshot_leaves_no_image(world: World, state: Path) -> None:
    before = audit.inventory(state)
    server = world.boot("snapped", image="busybox", flavor="c1.tiny")
    after_boot = audit.images(state)  # the base image stays cached, and nothing else
    image = world.api.compute.create_server_image(server, "snapped", wait=True, timeout=120)
    world.api.image.delete_image(image)
    world.delete(server)
    assert audit.images(state) == after_boot, "a snapshot leaves its image in LXD"
    eventually("the removal of everything", 60,
               lambda: not audit.difference(before, audit.inventory(state)))
