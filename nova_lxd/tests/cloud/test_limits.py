# SPDX-License-Identifier: Apache-2.0
"""What cannot be had is refused with a reason, and leaves nothing."""

from __future__ import annotations

import pytest
from openstack import exceptions

from nova_lxd.tests.cloud.world import World, eventually


def test_quota_is_refused(admin: World, world: World) -> None:
    project = admin.api.identity.find_project("demo")
    used = len(list(world.api.compute.servers()))
    before = admin.api.compute.get_quota_set(project).instances
    admin.api.compute.update_quota_set(project, instances=used + 1)
    admin.undo.callback(admin.api.compute.update_quota_set, project, instances=before)
    with pytest.raises(exceptions.ForbiddenException, match=r"[Qq]uota"):
        world.create("too-many", image="busybox", flavor="c1.tiny", min_count=2, max_count=2)
    assert len(list(world.api.compute.servers())) == used


def test_no_valid_host(admin: World, world: World) -> None:
    flavor = admin.api.compute.create_flavor(name="huge", vcpus=1, ram=128, disk=1 << 20)
    admin.undo.callback(admin.api.compute.delete_flavor, flavor, ignore_missing=True)
    server = world.create("too-big", image="busybox", flavor="huge")
    found = eventually(
        "the refusal", 60, lambda: next(
            (s for s in [world.api.compute.get_server(server)] if s.status == "ERROR"), None))
    assert "No valid host" in found.fault["message"]
