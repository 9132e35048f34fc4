# SPDX-License-Identifier: Apache-2.0
"""What differs from a production host while Nova's tests run on the driver.

The containers are real. What is stood in for: image data (one busybox image for every fixture
image), the switch (no OVS runs here: os-vif's verbs are recorded), Neutron's plug events (the
fixture sends none), the host's size (the tests' flavors are larger than a test machine).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

import nova.conf
import nova.privsep
from nova.tests.fixtures import conf as conf_fixture
from nova.tests.fixtures import glance as glance_fixture
from nova.tests.functional import integrated_helpers
from nova.virt import fake

from nova_lxd.tests.functional.virt import busybox
from nova_lxd.virt import driver, host, vifs

DRIVER = "lxd.LXDDriver"
PROJECT = f"nt{os.getpid()}-{{host}}"
RETRIES = 60  # of 0.5 s each: a container takes longer than a fake driver's dictionary
SHUTDOWN_SECONDS = 20  # as much as Nova keeps for cleanup_host
VCPUS, MEMORY_MB, DISK_GB = 1000, 800_000, 600_000
NODE_NAMESPACE = uuid.UUID("5f1d0b52-6f0c-4d52-9c8c-1f1d3b1a7f10")

STATE = tempfile.TemporaryDirectory(prefix="nova-lxd-tests-")

CONF = nova.conf.CONF


class ImageData(dict[str, bytes]):
    """Data of fixture images: what a test stored, else the busybox image."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key) or BUSYBOX


BUSYBOX = busybox.unified()


# Fake drivers without behaviour of their own, and those that fail in a certain way.
PLAIN = ("FakeDriver", "SmallFakeDriver", "MediumFakeDriver")
VARIANTS = ("FakeRescheduleDriver", "FakeBuildAbortDriver", "FakeUnshelveSpawnFailDriver")


def _rebased(variant: type) -> type:
    """Return a failing fake driver's behaviour on top of this driver."""
    body = {k: v for k, v in vars(variant).items() if k not in ("__dict__", "__weakref__")}
    return type(variant.__name__, (driver.LXDDriver,), body)


def _conf_set_up(original: Any) -> Any:
    def set_up(self: Any) -> None:
        original(self)
        self.conf.set_default("compute_driver", DRIVER)
        self.conf.set_default("vif_plugging_timeout", 0)
        # a compute service that a test has stopped is gone when its test ends
        self.conf.set_default("manager_shutdown_timeout", SHUTDOWN_SECONDS)
        self.conf.set_default("image_work_dir", f"{STATE.name}/images", group="lxd")
        self.conf.set_default("config_drive_dir", f"{STATE.name}/drives", group="lxd")
        self.conf.set_default("project", PROJECT, group="lxd")
        self.conf.set_default("shutdown_grace", 3, group="lxd")

    return set_up


def _glance_set_up(original: Any) -> Any:
    def set_up(self: Any) -> None:
        original(self)
        self._imagedata = ImageData()

    return set_up


def _glance_update(original: Any) -> Any:
    """Store the data as Glance does; the fixture drops it."""

    def update(
        self: Any, context: Any, image_id: str, metadata: Any, data: Any = None, **kwargs: Any
    ) -> Any:
        result = original(self, context, image_id, metadata, data, **kwargs)
        if data is not None:
            self._imagedata[image_id] = b"".join(iter(lambda: data.read(1 << 20), b""))
        return result

    return update


def _inventory(original: Any) -> Any:
    def inventory(self: Any, *args: Any) -> Any:
        found = original(self, *args)
        totals = {"VCPU": VCPUS, "MEMORY_MB": MEMORY_MB, "DISK_GB": DISK_GB}
        for name, total in totals.items():
            found[name] |= {"total": total, "max_unit": total}
        return found

    return inventory


def _available(original: Any) -> Any:
    def available(self: Any) -> Any:
        sizes = {"vcpus": VCPUS, "memory_mb": MEMORY_MB, "local_gb": DISK_GB}
        return {**original(self), **sizes, "disk_available_least": DISK_GB}

    return available


def _init_host(original: Any, seen: list[Any]) -> Any:
    def init_host(self: Any, host: str) -> None:
        original(self, host)
        seen.append(self)

    return init_host


def wipe(drivers: list[Any]) -> None:
    """Delete every instance, image and project of some drivers."""
    for subject in drivers:
        subject.cleanup_host(subject.host.name)
        if not subject.client.exists("projects", subject.client.project):
            continue
        for record in subject.client.get("instances", recursion="1"):
            subject.instances.delete(record["name"])
            for key in record["devices"]:
                if key.startswith(vifs.DEVICE_PREFIX):
                    vifs.privsep.delete_link("tap" + key.removeprefix(vifs.DEVICE_PREFIX))
        for image in subject.client.get("images", recursion="1"):
            subject.images.remove(image["fingerprint"])
        for volume in subject.client.get(
            "storage-pools", CONF.lxd.pool, "volumes", "custom", recursion="1"
        ):
            subject.lifecycle._delete_volume(volume["name"])
        subject.client.delete("projects", subject.client.project)


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Run one test in this world; afterwards the server is as it was."""
    drivers: list[Any] = []

    def node_uuid(self: Any) -> str:
        return str(uuid.uuid5(NODE_NAMESPACE, self.host.name))

    wrapped = (
        (conf_fixture.ConfFixture, "setUp", _conf_set_up),
        (glance_fixture.GlanceFixture, "setUp", _glance_set_up),
        (glance_fixture.GlanceFixture, "update", _glance_update),
        (host.Host, "inventory", _inventory),
        (host.Host, "available_resource", _available),
    )
    helper = integrated_helpers.InstanceHelperMixin._wait_for_server_parameter
    state_change = integrated_helpers.InstanceHelperMixin._wait_for_state_change
    with contextlib.ExitStack() as stack:
        for owner, name, wrap in wrapped:
            patch = mock.patch.object(owner, name, wrap(getattr(owner, name)))
            stack.enter_context(patch)
        original = driver.LXDDriver.init_host
        stack.enter_context(
            mock.patch.object(driver.LXDDriver, "init_host", _init_host(original, drivers))
        )
        stack.enter_context(mock.patch.object(driver.LXDDriver, "_node_uuid", node_uuid))
        stack.enter_context(mock.patch.object(vifs, "_os_vif"))
        # tests that make "the driver" fail name the fake one: they shall hit this one
        for name in PLAIN:
            stack.enter_context(mock.patch.object(fake, name, driver.LXDDriver))
        for name in VARIANTS:
            stack.enter_context(mock.patch.object(fake, name, _rebased(getattr(fake, name))))
        for function in (helper, state_change):
            defaults = tuple(RETRIES if d == 10 else d for d in function.__defaults__)
            stack.enter_context(mock.patch.object(function, "__defaults__", defaults))
        # this process is root itself and needs no privileged helper
        nova.privsep.sys_admin_pctxt.set_client_mode(False)
        stack.callback(nova.privsep.sys_admin_pctxt.set_client_mode, True)
        stack.callback(wipe, drivers)
        yield
