# SPDX-License-Identifier: Apache-2.0
"""``api_extensions``: exactly what works here, under LXD's names.

Clients branch on these: a name is listed only when a test shows that it works.
"""

from __future__ import annotations

API_EXTENSIONS: tuple[str, ...] = tuple(
    """
    container_host_shutdown_timeout container_stop_priority container_syscall_filtering
    container_last_used_at etag patch image_compression_algorithm directory_manipulation
    container_cpu_time network profile_usedby container_exec_recording
    container_exec_signal_handling gpu_devices container_image_properties id_map
    network_firewall_filtering storage file_delete file_append network_dhcp_expiry
    image_create_aliases container_stateless_copy storage_btrfs_mount_options
    entity_description id_map_base file_symlinks storage_images_delete container_edit_metadata
    storage_volatile_initial_source resources kernel_limits storage_api_volume_rename console
    restrict_devlxd devlxd_events proxy network_dhcp_gateway file_get_symlink network_leases
    unix_device_hotplug storage_api_local_volume_handling operation_description event_lifecycle
    container_mount_propagation container_backup container_local_cross_pool_handling proxy_unix
    proxy_udp proxy_tcp_udp_multi_port_handling network_state proxy_unix_dac_properties
    container_protection_delete proxy_haproxy_protocol network_hwaddr proxy_nat
    container_full backup_compression storage_api_volume_snapshots projects
    container_incremental_copy snapshot_scheduling snapshot_schedule_aliases
    container_copy_project container_protection_shift snapshot_expiry
    container_backup_override_pool snapshot_expiry_creation resources_cpu_socket resources_gpu
    resources_numa kernel_features id_map_current event_location network_nat_address
    lxc_features container_nic_ipfilter resources_v2 container_exec_user_group_cwd
    container_disk_shift storage_shifted instances image_types resources_disk_sata images_expiry
    backup_compression_algorithm compression_squashfs container_raw_mount container_nic_routed
    image_profiles resources_disk_id api_filtering instance_nic_network firewall_driver
    custom_volume_snapshot_expiry api_os resources_system network_state_bond_bridge
    usedby_consistency backup_override_name instance_bulk_state_change instance_pool_move
    storage_volume_state disk_state_quota certificate_project project_usage warnings
    storage_api_project server_instance_driver_operational server_supported_storage_drivers
    event_lifecycle_requestor_address metrics linux_sysctl instance_project_move cloud_init
    instance_all_projects instance_get_full event_project metrics_cpu_seconds
    instance_snapshot_never certificate_token instance_file_head storage_volume_state_total
    storage_volumes_all_projects remote_token_expiry init_preseed
    network_counters_errors_dropped container_cpu_time resource_limits https_allowed_credentials
    network_routes images_push_relay image_force_refresh container_push container_only_migration
    container_push_target migration_progress snapshot_disk_usage volume_snapshot_scheduling clustering
    custom_volume_refresh instance_allow_inconsistent_copy
    """.split()
)
