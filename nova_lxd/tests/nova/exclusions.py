# SPDX-License-Identifier: Apache-2.0
"""The tests of the chosen classes that are not run, each with the reason.

Keys are ``Class.test`` or ``Class`` for all of it.
"""

from __future__ import annotations

VOLUME_ROOT = "boots from a volume, which a container cannot"
TWO_HOSTS = "moves an instance to another host"
LIVE = "live migration"
UNLINK = "replaces os.unlink by a mock, so that no temporary file can be deleted"
FAKE_INSIDE = "looks into the fake driver's own data"

EXCLUDED: dict[str, str] = {
    "LXDConnectionTestCase.test_live_migration": LIVE + "; Nova's test lets no error of it pass",
    "LXDConnectionTestCase.test_live_migration_force_complete": FAKE_INSIDE,
    "LXDConnectionTestCase.test_migrate_disk_and_power_off": TWO_HOSTS,
    "LXDConnectionTestCase.test_unrescue_rescued_instance": UNLINK,
    "LXDLoaderTestCase.test_fail_to_load_new_drivers": "tests Nova's loader, not a driver",
    "ServerRebuildTestCase.test_volume_backed_rebuild_different_image": VOLUME_ROOT,
    "ServerRebuildTestCaseV293": VOLUME_ROOT,
    "ServersTestV280.test_get_migrations_after_cold_migrate_server_in_same_project": TWO_HOSTS,
    "ServersTestV280.test_get_migrations_after_live_migrate_server_in_different_project": LIVE,
    "ServerTestV256SingleCellMultiHostTestCase": TWO_HOSTS,
    "MetadataTest.test_network_data_matches_schema": "reads a schema of Nova's git tree, which its"
    " wheel does not have",
    "DisallowBFVRescuev286": VOLUME_ROOT,
    "ResizeCheckInstanceHostTestCase": TWO_HOSTS,
}


def reason(class_name: str, test: str) -> str | None:
    """Return why a test is not run; None when it is."""
    return EXCLUDED.get(f"{class_name}.{test}") or EXCLUDED.get(class_name)
