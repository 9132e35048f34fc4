# SPDX-License-Identifier: Apache-2.0
"""Which of Nova's functional test classes run on this driver, and how they are re-classed."""

from __future__ import annotations

import importlib
import unittest
from typing import Any

from nova_lxd.tests.nova import exclusions, world

BASE = "nova.tests.functional."
CONTRACT = "nova_lxd.tests.nova.drivers"
OUTAGE = "nova_lxd.tests.nova.outage"

# Module → classes. What is not here needs cyborg, libvirt, nested providers or several cells.
CHOSEN: dict[str, tuple[str, ...]] = {
    CONTRACT: ("LXDConnectionTestCase", "LXDLoaderTestCase"),
    OUTAGE: ("ServiceOutageTestCase",),
    "test_servers": (
        "ServersTest",
        "ServersTestV219",
        "ServerTestV220",
        "ServerTestV269",
        "ServerRebuildTestCase",
        "ServerRebuildTestCaseV293",
        "ServersTestV280",
        "ServerRescheduleTests",
        "ServerBuildAbortTests",
        "ServerDeleteBuildTests",
        "ServerUnshelveSpawnFailTests",
        "ServerSoftDeleteTests",
        "PortBindingShelvedServerTest",
        "CreateServerConstraintsTest",
        "ServerTestV256SingleCellMultiHostTestCase",
        "ServerMovingTests",
    ),
    "test_instance_actions": ("InstanceActionsTestV221", "InstanceActionEventFaultsTestCase"),
    "test_server_rescue": ("DisallowBFVRescuev286",),
    "test_server_faults": ("ServerFaultTestCase",),
    "test_images": ("ImagesTest",),
    "test_metadata": ("MetadataTest",),
    "test_ip_allocation": ("IPAllocationTests",),
    "wsgi.test_servers": (
        "ServersPreSchedulingTestCase",
        "EnforceVolumeBackedForZeroDiskFlavorTestCase",
        "ResizeCheckInstanceHostTestCase",
    ),
    "wsgi.test_interfaces": ("InterfaceFullstack",),
    "compute.test_host_api": ("ComputeHostAPIMultiCellTestCase",),
    "test_servers_resource_request": ("PortResourceRequestBasedSchedulingTest",),
}

# Of some classes only these: most of the others move instances between hosts.
ONLY: dict[str, tuple[str, ...]] = {
    "PortResourceRequestBasedSchedulingTest": (  # the others have virtual functions as ports
        "test_boot_server_with_two_ports_one_having_resource_request",
        "test_interface_attach_with_resource_request_no_candidates",
        "test_interface_detach_with_port_with_bandwidth_request",
    ),
    "ServerMovingTests": (
        "test_resize_revert_same_host",
        "test_resize_confirm_same_host",
        "test_rebuild_server_conflict",
        "test_shelve_unshelve",
        "test_shelve_offload_unshelve_diff_host",
        "test_shelve_offload_unshelve_same_host",
        "test_resize_to_same_host_prep_resize_fails",
        "test_shelve_unshelve_after_server_created_with_host",
    ),
}


def reclassed(base: type) -> type:
    """Return a subclass of one of Nova's test classes that runs on this driver."""

    def run(self: Any, result: Any = None) -> Any:
        with world.patched():
            return super(subclass, self).run(result)

    body: dict[str, Any] = {"run": run, "__module__": base.__module__}
    wanted = getattr(base, "compute_driver", None)
    if wanted and wanted.removeprefix("fake.") not in world.VARIANTS:
        body["compute_driver"] = world.DRIVER
    subclass = type(base.__name__, (base,), body)
    return subclass


def build(pattern: str = "") -> tuple[unittest.TestSuite, dict[str, str]]:
    """Return the tests whose id contains ``pattern``, and the excluded ones with reasons."""
    suite = unittest.TestSuite()
    left_out = {}
    for module_name, classes in CHOSEN.items():
        prefix = "" if module_name in (CONTRACT, OUTAGE) else BASE
        module = importlib.import_module(prefix + module_name)
        for class_name in classes:
            subject = reclassed(getattr(module, class_name))
            for test in unittest.defaultTestLoader.getTestCaseNames(subject):
                reason = exclusions.reason(class_name, test)
                name = f"{module_name}.{class_name}.{test}"
                if pattern not in name or test not in ONLY.get(class_name, (test,)):
                    continue
                if reason:
                    left_out[name] = reason
                else:
                    suite.addTest(subject(test))
    return suite, left_out


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None
) -> unittest.TestSuite:
    """unittest's protocol: discovery finds the same suite."""
    return build()[0]
