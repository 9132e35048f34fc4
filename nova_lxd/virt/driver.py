# SPDX-License-Identifier: Apache-2.0
"""``compute_driver = lxd.LXDDriver``: Nova instances as LXD system containers."""

from __future__ import annotations

from typing import Any

import nova.conf
from nova import exception as nova_exception
from nova.virt import driver, hardware, node
from oslo_log import log as logging

from nova_lxd.virt import conf, exception, guest
from nova_lxd.virt import host as host_module
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.events import EventWatcher
from nova_lxd.virt.images.cache import ImageCache
from nova_lxd.virt.instances import Instances
from nova_lxd.virt.lifecycle import Lifecycle

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF
conf.register(CONF)


class LXDDriver(driver.ComputeDriver):
    """One method per verb of ComputeDriver: translation only, the work is done elsewhere."""

    capabilities = {
        **driver.ComputeDriver.capabilities,
        "has_imagecache": True,
        "supports_evacuate": True,
        "supports_migrate_to_same_host": True,
        "supports_attach_interface": True,
        "supports_device_tagging": True,
        "supports_tagged_attach_interface": True,
        "supports_trusted_certs": True,
        "supports_pcpus": True,
        "supports_image_type_qcow2": True,
        "supports_image_type_raw": True,
    }

    # -- host -------------------------------------------------------------------------------

    def init_host(self, host: str) -> None:
        """Check the server, make the project, follow its events.

        :raises HostNotUsable: with one sentence that says what to do
        """
        project = CONF.lxd.project.format(host=host)
        self.client = LXDClient(CONF.lxd, project)
        self.host = host_module.Host(self.client, host)
        self.host.check()
        self.watcher = EventWatcher(
            self.client,
            CONF.lxd.event_retry,
            emit=self.emit_event,
            connection=self.host.set_service_enabled,
            restarted=self._guest_restarted,
        )
        self.instances = Instances(self.client, self.watcher)
        self.images = ImageCache(self.client)
        self.lifecycle = Lifecycle(
            self.virtapi, self.client, self.host, self.instances, self.images
        )
        self.watcher.start()

    def cleanup_host(self, host: str) -> None:
        """Close the event stream."""
        self.watcher.stop()

    def _guest_restarted(self, name: str) -> None:
        LOG.info("The guest of %s restarted", name)

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self.host.name]

    def get_nodenames_by_uuid(self, refresh: bool = False) -> dict[str, str]:
        return {node.get_local_node_uuid(): self.host.name}

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        return {**self.host.available_resource(), "uuid": node.get_local_node_uuid()}

    def update_provider_tree(
        self, provider_tree: Any, nodename: str, allocations: Any = None
    ) -> None:
        current = provider_tree.data(nodename).inventory
        inventory = self.host.inventory(
            self._get_allocation_ratios(current), self._get_reserved_host_disk_gb_from_config()
        )
        provider_tree.update_inventory(nodename, inventory)
        provider_tree.add_traits(nodename, *self.host.traits())

    def get_host_ip_addr(self) -> str:
        return CONF.my_ip

    def get_host_uptime(self) -> str:
        return host_module.uptime()

    def get_host_cpu_stats(self) -> dict[str, int]:
        return host_module.cpu_stats()

    # -- what is there ----------------------------------------------------------------------

    def get_info(self, instance: Any, use_cache: bool = True) -> hardware.InstanceInfo:
        """Return the power state, from the cache that LXD's events feed.

        ``use_cache`` makes no difference: the cache is used only while the event stream
        stands, and the driver's own changes are in it before they return.
        """
        try:
            found = self.watcher.lookup(guest.name(instance))
        except exception.LXDNotFound:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid)
        return hardware.InstanceInfo(state=found.state)

    def get_num_instances(self) -> int:
        return len(self.list_instances())

    def instance_exists(self, instance: Any) -> bool:
        return self.instances.exists(guest.name(instance))

    def instance_on_disk(self, instance: Any) -> bool:
        return self.instance_exists(instance)

    def list_instances(self) -> list[str]:
        return [name for name, found in self.watcher.all().items() if found.uuid]

    def list_instance_uuids(self) -> list[str]:
        return [found.uuid for found in self.watcher.all().values() if found.uuid]

    # -- life -------------------------------------------------------------------------------

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: str | None,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
    ) -> None:
        self.lifecycle.spawn(
            context,
            instance,
            image_meta.id,
            injected_files,
            admin_password,
            network_info,
            block_device_info,
            power_on,
        )

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        self.lifecycle.destroy(instance)
        self.cleanup(context, instance, network_info, block_device_info, destroy_disks)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        self.lifecycle.cleanup(
            instance, network_info, block_device_info, destroy_disks, destroy_vifs
        )
