# SPDX-License-Identifier: Apache-2.0
"""Nova's contract test for virt drivers (test_virt_drivers) on this driver, with real containers.

In that test a method that raises NotImplementedError passes with a line in the log. Here the
lines are collected: what is not implemented is exactly :data:`NOT_IMPLEMENTED`.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from nova import test
from nova.tests.unit.virt import test_virt_drivers as contract

# Test → the method that raises NotImplementedError in it.
NOT_IMPLEMENTED: dict[str, str] = {
    "test_attach_detach_different_power_states": "attach_volume",
    "test_attach_detach_volume": "attach_volume",
    "test_swap_volume": "attach_volume",
    "test_get_volume_connector": "get_volume_connector",
    "test_get_volume_connector_storage_ip": "get_volume_connector",
    "test_block_stats": "block_stats",
    "test_get_device_name_for_instance": "get_device_name_for_instance",
    "test_get_mks_console": "get_mks_console",
    "test_get_spice_console": "get_spice_console",
    "test_get_vnc_console": "get_vnc_console",
    "test_host_power_action_reboot": "host_power_action",
    "test_host_power_action_shutdown": "host_power_action",
    "test_host_power_action_startup": "host_power_action",
    "test_live_migration_abort": "live_migration_abort",
    "test_restore_running": "restore",
    "test_restore_soft_deleted": "soft_delete",
    "test_soft_delete": "soft_delete",
    "test_set_host_enabled": "set_host_enabled",
    "test_trigger_crash_dump": "trigger_crash_dump",
}


class LXDConnectionTestCase(contract._VirtDriverTestCase, test.TestCase):
    """The inherited tests of the driver's interface."""

    def setUp(self) -> None:
        self.driver_module = "nova.virt.lxd.LXDDriver"
        super().setUp()
        self.missing: list[str] = []
        patch = mock.patch.object(contract.LOG, "error", self._collect)
        patch.start()
        self.addCleanup(patch.stop)
        self.connection.init_host("myhostname")

    def _collect(self, message: str, values: dict[str, Any]) -> None:
        assert "does not implement" in message
        self.missing.append(values["method"])

    def tearDown(self) -> None:
        expected = NOT_IMPLEMENTED.get(self._testMethodName)
        self.assertEqual([expected] if expected else [], self.missing)
        super().tearDown()


class LXDLoaderTestCase(contract.VirtDriverLoaderTestCase):
    """Nova's manager loads the driver by its configured name."""

    new_drivers = {"lxd.LXDDriver": "LXDDriver"}
