# SPDX-License-Identifier: Apache-2.0
"""The driver object against a live server.

``NOVA_LXD_TEST_BACKEND`` chooses it: ``lxd`` (an LXD that answers at LXD_DIR) or ``bundled`` (the
daemon of this package at LXD_DIR). Run them as root in a network and a mount namespace of their
own; tools/testrun/beside.py does that.

They run on native threads as nova-compute does; ``OS_NOVA_DISABLE_EVENTLET_PATCHING=false``,
Nova's own variable, runs them on eventlet, its other concurrency backend. pytest must then load
only the plug-ins that the test run's ``driver`` part names, as others import urllib3 too early.
"""

from __future__ import annotations

import os
import pathlib
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

nova = pytest.importorskip("nova")

BACKEND = os.environ.get("NOVA_LXD_TEST_BACKEND")

if BACKEND:  # before anything of Nova or requests is imported; other tests are left as they are
    from nova import monkey_patch

    early = "urllib3" in sys.modules
    monkey_patch.patch(backend="threading")
    if early and monkey_patch.is_patched():
        raise pytest.UsageError(
            "eventlet was patched in after urllib3 had been imported, so that TLS would not work: "
            "run pytest with PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 and the plug-ins named"
        )


@pytest.fixture(scope="session", autouse=True)
def live() -> None:
    """Skip everything here without a server to talk to."""
    if BACKEND not in ("lxd", "bundled"):
        pytest.skip("NOVA_LXD_TEST_BACKEND is neither 'lxd' nor 'bundled'")
    socket = pathlib.Path(os.environ.get("LXD_DIR", ""), "unix.socket")
    if not socket.exists():
        pytest.fail(f"no server answers at {socket}: set LXD_DIR")


@pytest.fixture(scope="session")
def nova_conf(live: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nova's configuration, set up as nova-compute does, with state in a scratch directory."""
    import nova.conf
    import nova.privsep
    import os_vif
    from nova import objects

    from nova_lxd.virt import conf as lxd_conf

    lxd_conf.register(nova.conf.CONF)  # as modules override options before they import the driver
    nova.privsep.sys_admin_pctxt.set_client_mode(False)  # this process is root itself
    objects.register_all()
    os_vif.initialize()
    state = tmp_path_factory.mktemp("state")
    nova.conf.CONF([], project="nova", default_config_files=[])
    nova.conf.CONF.set_override("state_path", str(state))
    nova.conf.CONF.set_override("lock_path", str(state / "locks"), "oslo_concurrency")
    nova.conf.CONF.set_override("enabled", True, "serial_console")
    return nova.conf.CONF


@pytest.fixture(scope="session")
def conf(nova_conf: Any) -> Any:
    """The configuration; modules with another server give theirs this name."""
    return nova_conf


@pytest.fixture(scope="module")
def driver(conf: Any) -> Iterator[Any]:
    """An initialised driver with a project of its own, which is gone afterwards."""
    from nova_lxd.tests.functional.virt import world
    from nova_lxd.virt import driver as lxd_driver

    host = "test-" + uuid.uuid4().hex[:8]
    subject = lxd_driver.LXDDriver(world.VirtAPI())
    events: list[Any] = []
    subject.register_event_listener(events.append)
    subject.events_seen = events
    with pytest.MonkeyPatch.context() as patch:
        states: list[tuple[bool, str]] = []
        patch.setattr(
            lxd_driver.host_module.Host,
            "set_service_enabled",
            lambda self, up, reason: states.append((up, reason)),
        )
        subject.service_states = states
        from nova import objects
        from nova.network import security_group_api

        patch.setattr(lxd_driver.tags, "device_metadata", lambda *args: None)
        patch.setattr(security_group_api, "list", lambda *args, **kwargs: [])
        patch.setattr(
            security_group_api, "get_instance_security_groups", lambda *args, **kwargs: []
        )
        patch.setattr(  # there is no database, and no volume
            objects.BlockDeviceMappingList,
            "get_by_instance_uuid",
            lambda *args: objects.BlockDeviceMappingList(objects=[]),
        )
        subject.init_host(host)
        glance = world.Glance()
        subject.images._glance = subject.snapshots._glance = glance
        yield subject
        subject.cleanup_host(host)
        for name in subject.instances._client.get("instances", recursion="1"):
            subject.instances.delete(name["name"])
        for image in subject.client.get("images", recursion="1"):
            subject.images.remove(image["fingerprint"])
        subject.client.delete("projects", subject.client.project)


@pytest.fixture
def glance(driver: Any) -> Any:
    """The image service of the driver."""
    return driver.images._glance


@pytest.fixture(scope="session")
def busybox_image() -> bytes:
    """A unified busybox image."""
    from nova_lxd.tests.functional.virt import busybox

    if not busybox.available():
        pytest.skip("no static /bin/busybox")
    return busybox.unified()


@pytest.fixture(scope="session")
def context(nova_conf: Any) -> Any:
    """A user's request context."""
    from nova import context as nova_context

    return nova_context.RequestContext("user", "project")


@pytest.fixture
def image(driver: Any, glance: Any, busybox_image: bytes) -> str:
    """The id of a busybox image in Glance."""
    return glance.add(busybox_image)


@pytest.fixture
def server(driver: Any, image: str, context: Any) -> Iterator[Any]:
    """A running instance with one port; destroyed afterwards."""
    from nova_lxd.tests.functional.virt import world

    instance = world.instance(image)
    network_info = world.network_info()
    instance.ports = network_info
    instance.get_network_info = lambda: network_info
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, network_info)
    yield instance
    driver.destroy(context, instance, network_info)
