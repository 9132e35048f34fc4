# SPDX-License-Identifier: Apache-2.0
"""Every name in ``api_extensions`` has a test that would fail if it did not work here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from nova_lxd.lxd.schema.extensions import API_EXTENSIONS

TESTS = Path(__file__).resolve().parents[2]

# File -> test -> the names that it stands for.
SHOWN_BY: dict[str, dict[str, tuple[str, ...]]] = {
    "functional/devices/test_disks.py": {
        "test_slave_follows_new_mounts_of_the_host": ("container_mount_propagation",),
    },
    "functional/devices/test_nics.py": {
        "test_mac_filter_drops_a_forged_sender": ("network_firewall_filtering",),
        "test_ipv4_filter_allows_dhcp_and_the_given_address_only": ("container_nic_ipfilter",),
        "test_routed_reaches_the_host_and_nothing_forged_does": (
            "container_nic_routed",
            "container_nic_routed_host_address",
        ),
        "test_vlan_is_refused_clearly_or_works": ("network_vlan",),
        "test_p2p_has_the_name_that_was_asked_for": ("container_nic_routes",),
    },
    "functional/devices/test_proxy.py": {
        "test_ranges_map_port_by_port": ("proxy_tcp_udp_multi_port_handling",),
        "test_unix_listener_has_owner_and_mode_and_goes": ("proxy_unix_dac_properties",),
        "test_proxy_protocol": ("proxy_haproxy_protocol",),
    },
    "functional/images/test_transfer.py": {
        "test_copies_between_projects_go_over_https": (
            "images_push_relay",
            "image_source_project",
            "images_target_project",
        ),
        "test_simplestreams_copy_and_refresh": ("image_force_refresh",),
    },
    "functional/storage/test_driver_contract.py": {
        "test_image_is_unpacked_once_for_many_callers": ("storage_images_delete",),
    },
    "functional/test_backup.py": {
        "test_backups_api": ("container_backup",),
        "test_round_trip": ("backup_compression", "backup_compression_algorithm"),
        "test_import_under_another_name": (
            "container_backup_override_pool",
            "backup_override_name",
        ),
        "test_volume_round_trip": ("custom_volume_backup",),
    },
    "functional/test_console.py": {
        "test_attach_type_and_detach": ("console",),
    },
    "functional/test_debian.py": {
        "test_cloud_init_network_config_and_vendor_data": ("cloud_init",),
    },
    "functional/test_devices.py": {
        "test_proxy_tcp_from_host_to_guest": ("proxy",),
        "test_proxy_unix_socket": ("proxy_unix",),
        "test_proxy_udp_from_guest_to_host": ("proxy_udp",),
        "test_proxy_nat": ("proxy_nat",),
        "test_shift_maps_the_owners": ("container_disk_shift",),
        "test_unix_char": ("unix_device_rename",),
        "test_optional_node_comes_and_goes": ("unix_device_hotplug",),
    },
    "functional/test_devlxd.py": {
        "test_switched_off": ("restrict_devlxd",),
        "test_events": ("devlxd_events",),
    },
    "functional/test_errors.py": {
        "test_etag_and_if_match": ("etag", "patch"),
    },
    "functional/test_events.py": {
        "test_operations_list_show_delete": ("operation_description",),
        "test_lifecycle_of_an_instance_in_order": (
            "event_lifecycle",
            "event_lifecycle_requestor_address",
            "event_location",
        ),
        "test_type_and_project_filters": ("event_project",),
    },
    "functional/test_exec.py": {
        "test_recorded_output": ("container_exec_recording",),
        "test_signals_are_forwarded": ("container_exec_signal_handling",),
        "test_user_and_group": ("container_exec_user_group_cwd",),
    },
    "functional/test_extensions.py": {
        "test_host_shutdown_takes_its_order_and_time": (
            "container_host_shutdown_timeout",
            "container_stop_priority",
        ),
        "test_denied_system_call_fails": ("container_syscall_filtering",),
        "test_last_use_is_told": ("container_last_used_at",),
        "test_compression_of_published_images": ("image_compression_algorithm",),
        "test_bridge_keys_reach_the_host": (
            "network_dhcp_expiry",
            "network_dhcp_gateway",
            "network_hwaddr",
            "network_nat_address",
            "network_nat_order",
            "network_dns_search",
            "network_routes",
        ),
        "test_mount_options_of_a_btrfs_pool": ("storage_btrfs_mount_options",),
        "test_base_of_an_isolated_map": ("id_map_base", "id_map_current"),
        "test_resources": (
            "resources",
            "resources_cpu_socket",
            "resources_gpu",
            "resources_numa",
            "resources_v2",
            "resources_disk_sata",
            "resources_disk_id",
            "resources_system",
        ),
        "test_rlimits_are_those_of_init": ("kernel_limits",),
        "test_schedule_aliases": ("snapshot_schedule_aliases", "volume_snapshot_scheduling"),
        "test_environment_tells_features": (
            "kernel_features",
            "lxc_features",
            "firewall_driver",
            "api_os",
            "server_instance_driver_operational",
            "server_supported_storage_drivers",
        ),
        "test_one_instance_in_full": (
            "instances",
            "instance_get_full",
            "network_counters_errors_dropped",
        ),
        "test_image_expiry_and_types": ("image_types", "images_expiry", "image_profiles"),
        "test_raw_mount_options": ("container_raw_mount",),
        "test_snapshots_of_a_volume_expire": ("custom_volume_snapshot_expiry",),
        "test_many_instances_change_state_at_once": ("instance_bulk_state_change",),
        "test_state_of_a_volume": ("storage_volume_state", "storage_volume_state_total"),
        "test_warning_is_shown_acknowledged_and_deleted": ("warnings",),
        "test_metrics_under_lxds_names": ("metrics", "metrics_cpu_seconds"),
        "test_all_projects": (
            "instance_all_projects",
            "storage_volumes_all_projects",
            "storage_volume_api_filtering",
        ),
        "test_snapshots_never_expire_when_told": ("instance_snapshot_never",),
        "test_join_token_expires": ("remote_token_expiry",),
        "test_running_instance_is_copied_as_it_is_when_told": (
            "instance_allow_inconsistent_copy",
        ),
        "test_certificate_is_changed": ("certificate_update",),
        "test_volume_keeps_ids_of_the_host_when_unmapped": ("storage_unmapped",),
        "test_volume_moves_to_another_project": ("storage_volume_project_move",),
    },
    "functional/test_files.py": {
        "test_post_directories_and_symlinks": ("directory_manipulation", "file_symlinks"),
        "test_delete": ("file_delete",),
        "test_append_and_overwrite": ("file_append",),
        "test_directory_listing_and_symlinks": ("file_get_symlink",),
        "test_head": ("instance_file_head",),
    },
    "functional/test_images.py": {
        "test_publish_an_instance": ("container_image_properties",),
        "test_import_with_properties_and_public": ("image_create_aliases",),
        "test_unified_image_in_every_compression": ("compression_squashfs",),
    },
    "functional/test_init.py": {
        "test_preseed_twice_and_dump": ("init_preseed",),
    },
    "functional/test_instances.py": {
        "test_state_of_a_running_guest": ("container_cpu_time", "container_full"),
        "test_unprivileged_by_default_privileged_when_asked": ("id_map",),
        "test_rebuilt_metadata_and_templates_api": ("container_edit_metadata",),
        "test_protection_delete": ("container_protection_delete",),
        "test_server_side_filter": ("api_filtering",),
        "test_environment_and_sysctl": ("linux_sysctl",),
        "test_cluster_says_not_clustered": ("clustering",),
    },
    "functional/test_listener.py": {
        "test_metrics_have_an_address_of_their_own": ("metrics_authentication",),
    },
    "functional/test_migration.py": {
        "test_within_one_server": ("container_copy_project", "instance_project_move"),
        "test_shifted_trees_of_real_lxd": ("container_protection_shift",),
        "test_copy": ("container_push", "container_push_target"),
        "test_without_snapshots_and_a_snapshot_alone": ("container_only_migration",),
        "test_progress_and_cancel": ("migration_progress", "storage_rsync_bwlimit"),
    },
    "functional/test_networks.py": {
        "test_create_makes_a_bridge_and_delete_removes_it": ("network",),
        "test_guest_gets_an_address_and_a_lease": ("network_leases", "network_leases_location"),
        "test_state_of_a_network": ("network_state", "network_state_bond_bridge"),
        "test_attach_and_detach_live": ("instance_nic_network",),
    },
    "functional/test_profiles.py": {
        "test_create_edit_rename_delete": ("profile_usedby", "entity_description"),
        "test_limits_cascade_to_a_running_guest": ("resource_limits",),
    },
    "functional/test_projects.py": {
        "test_same_name_in_two_projects": ("projects",),
        "test_state_adds_up_what_instances_may_use": ("project_usage",),
        "test_volumes_are_apart": ("storage_api_project",),
    },
    "functional/test_remote.py": {
        "test_token": ("certificate_token",),
        "test_browsers_are_told_what_other_sites_may_do": ("https_allowed_credentials",),
    },
    "functional/test_restricted.py": {
        "test_used_by_leaves_the_others_out": ("usedby_consistency",),
        "test_other_projects_are_closed": ("certificate_project",),
    },
    "functional/test_snapshots.py": {
        "test_restore_brings_the_configuration_back": ("container_stateless_copy",),
        "test_move_between_pools": ("container_local_cross_pool_handling", "instance_pool_move"),
        "test_refresh_brings_a_copy_up_to_date": ("container_incremental_copy",),
        "test_scheduled_snapshots": ("snapshot_scheduling",),
        "test_expiry": ("snapshot_expiry", "snapshot_expiry_creation"),
        "test_snapshot_object": ("snapshot_disk_usage",),
    },
    "functional/test_storage.py": {
        "test_pool_object_and_resources": ("storage",),
        "test_pool_keeps_its_source": ("storage_volatile_initial_source",),
        "test_volume_copy_move_rename": (
            "storage_api_volume_rename",
            "storage_api_local_volume_handling",
        ),
        "test_volume_snapshots": ("storage_api_volume_snapshots",),
        "test_shifted_volume_is_shared_between_id_maps": ("storage_shifted",),
        "test_btrfs_quota_is_enforced": ("disk_state_quota",),
    },
    "unit/devices/test_runconfig.py": {
        "test_cards_of_a_host": ("gpu_devices",),
    },
}


def test_every_extension_is_shown_once() -> None:
    shown = [name for tests in SHOWN_BY.values() for names in tests.values() for name in names]
    assert sorted(shown) == sorted(API_EXTENSIONS)


@pytest.mark.parametrize("file", SHOWN_BY)
def test_what_shows_them_is_there(file: str) -> None:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    there = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    assert SHOWN_BY[file].keys() - there == set()
