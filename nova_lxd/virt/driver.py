# SPDX-License-Identifier: Apache-2.0
"""``compute_driver = lxd.LXDDriver``: Nova instances as LXD system containers."""

from __future__ import annotations

from typing import Any

import nova.conf
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.virt import driver, hardware, node
from oslo_log import log as logging

from nova_lxd.virt import conf, consoletext, diagnostics, exception, guest, tags
from nova_lxd.virt import host as host_module
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.consoles import NOT_FOUND, Consoles
from nova_lxd.virt.events import EventWatcher
from nova_lxd.virt.images.cache import ImageCache
from nova_lxd.virt.instances import Instances
from nova_lxd.virt.lifecycle import Lifecycle, quietly
from nova_lxd.virt.migration import Resize
from nova_lxd.virt.rescue import Rescue
from nova_lxd.virt.snapshots import Snapshots

LOG = logging.getLogger(__name__)
ROOT = "root"
# Ends at once in a guest without cloud-init, or in one that has booted.
AWAIT_CLOUD_INIT = ["timeout", "120", "cloud-init", "status", "--wait"]
CONF = nova.conf.CONF
conf.register(CONF)

NO_LIVE_MIGRATION = "a running container cannot be moved by this driver: stop it first"


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
        self.rescuer = Rescue(self.client, self.instances, self.lifecycle, self.images)
        self.resizer = Resize(self.host, self.instances, self.lifecycle)
        self.snapshots = Snapshots(self.client)
        self.consoles = Consoles(self.client)
        self.images.remove_leftovers()
        self.snapshots.remove_leftovers()
        self.watcher.start()

    def cleanup_host(self, host: str) -> None:
        """Close the event stream and the serial consoles."""
        self.watcher.stop()
        self.consoles.close_all()

    def _guest_restarted(self, name: str) -> None:
        """Mend the ports of a guest that rebooted by itself."""
        uuid = self.watcher.lookup(name).uuid
        if uuid is None:
            return
        context = nova_context.get_admin_context()
        instance = objects.Instance.get_by_uuid(
            context, uuid, expected_attrs=["info_cache", "flavor"]
        )
        if instance.task_state is None:  # else one of the driver's own verbs is at it
            self.lifecycle.after_guest_restart(instance, instance.get_network_info())

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self.host.name]

    def get_nodenames_by_uuid(self, refresh: bool = False) -> dict[str, str]:
        return {self._node_uuid(): self.host.name}

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        return {**self.host.available_resource(), "uuid": self._node_uuid()}

    def _node_uuid(self) -> str:
        """Return the node's identity, which Nova keeps in its state directory."""
        return node.get_local_node_uuid()

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
        # the metadata service and the config drive tell the tags; the manager saves the instance
        instance.device_metadata = tags.device_metadata(context, instance)
        try:
            self.lifecycle.spawn(
                context,
                instance,
                _image_id(instance, image_meta),
                injected_files,
                admin_password,
                network_info,
                block_device_info,
                power_on,
            )
        except (nova_exception.InstanceDeployFailure, exception.LXDRefused) as e:
            # Not a matter of this try: the owner reads the reason, and not that hosts ran out.
            raise nova_exception.BuildAbortException(
                instance_uuid=instance.uuid, reason=e.format_message()
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
        if self.resizer.is_being_reverted(instance):
            return  # the one container that both flavors share
        self.consoles.close(guest.name(instance))
        try:
            self.rescuer.discard(instance)
            self.lifecycle.destroy(instance)
        except (exception.LXDError, exception.LXDUnavailable) as e:
            # The guest may still run and use its ports: after this error alone Nova keeps them,
            # and the next try finds what to unplug.
            raise nova_exception.InstancePowerOffFailure(reason=e.format_message())
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

    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: str,
        block_device_info: Any = None,
        bad_volumes_callback: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        grace = CONF.lxd.shutdown_grace if reboot_type == "SOFT" else 0
        self.lifecycle.reboot(instance, network_info, grace)

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        self.lifecycle.stop(instance, timeout)

    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self.lifecycle.start(instance, network_info)

    def resume_state_on_host_boot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        share_info: Any,
        block_device_info: Any = None,
    ) -> None:
        self.lifecycle.start(instance, network_info)

    def pause(self, instance: Any) -> None:
        self.instances.freeze(self._name(instance))

    def unpause(self, instance: Any) -> None:
        self.instances.unfreeze(self._name(instance))

    def suspend(self, context: Any, instance: Any) -> None:
        """Freeze: the memory stays in memory and is lost when the host restarts."""
        self.instances.freeze(self._name(instance))

    def resume(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        share_info: Any = None,
    ) -> None:
        """Unfreeze, or start what a restart of the host has stopped meanwhile."""
        self.lifecycle.start(instance, network_info)

    def quiesce(self, context: Any, instance: Any, image_meta: Any) -> None:
        self.instances.freeze(self._name(instance))

    def unquiesce(self, context: Any, instance: Any, image_meta: Any) -> None:
        self.instances.unfreeze(self._name(instance))

    def rescue(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        image_meta: Any,
        rescue_password: str,
        block_device_info: Any,
        share_info: Any,
    ) -> None:
        self.rescuer.rescue(context, instance, network_info, _image_id(instance, image_meta))
        if rescue_password:
            # an image without chpasswd, or without a root password, is still worth a rescue
            quietly(self._set_password, instance, ROOT, rescue_password)

    def unrescue(self, context: Any, instance: Any) -> None:
        self.rescuer.unrescue(instance, instance.get_network_info())

    def snapshot(self, context: Any, instance: Any, image_id: str, update_task_state: Any) -> None:
        self.snapshots.upload(context, instance, image_id, update_task_state)

    def _name(self, instance: Any) -> str:
        """Return the LXD name of an instance that exists.

        :raises nova.exception.InstanceNotFound:
        """
        name = guest.name(instance)
        try:
            self.watcher.refresh(name)
        except exception.LXDNotFound:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid)
        return name

    # -- resize on the same host ------------------------------------------------------------

    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: Any,
        dest: str,
        flavor: Any,
        network_info: Any,
        block_device_info: Any = None,
        timeout: int = 0,
        retry_interval: int = 0,
    ) -> str:
        self.resizer.begin(context, instance, dest, flavor)
        return ""

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        disk_info: Any,
        network_info: Any,
        image_meta: Any,
        resize_instance: bool,
        allocations: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        self.resizer.finish(instance, network_info, power_on)

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        self.resizer.confirm(instance)

    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        self.resizer.revert(instance, network_info, power_on)

    def get_instance_disk_info(self, instance: Any, block_device_info: Any = None) -> str:
        """Return '[]': the root is a volume of the storage pool and no disk file."""
        return "[]"

    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: Any,
        src_compute_info: Any,
        dst_compute_info: Any,
        block_migration: bool = False,
        disk_over_commit: bool = False,
    ) -> Any:
        raise nova_exception.MigrationPreCheckError(reason=NO_LIVE_MIGRATION)

    def check_can_live_migrate_source(
        self, context: Any, instance: Any, dest_check_data: Any, block_device_info: Any = None
    ) -> Any:
        raise nova_exception.MigrationPreCheckError(reason=NO_LIVE_MIGRATION)

    # -- network ----------------------------------------------------------------------------

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """Nothing: ports are plugged at each start, and a running guest keeps its own."""

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        self.lifecycle.unplug(instance, network_info)

    def attach_interface(self, context: Any, instance: Any, image_meta: Any, vif: Any) -> None:
        self._name(instance)
        try:
            self.lifecycle.attach(instance, vif)
        except (exception.LXDError, nova_exception.VirtualInterfacePlugException) as e:
            LOG.error("Attaching port %s failed: %s", vif["id"], e, instance=instance)
            raise nova_exception.InterfaceAttachFailed(instance_uuid=instance.uuid)
        self._tag(context, instance)

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        self._name(instance)
        try:
            self.lifecycle.detach(instance, vif)
        except exception.LXDError as e:
            LOG.error("Detaching port %s failed: %s", vif["id"], e, instance=instance)
            raise nova_exception.InterfaceDetachFailed(instance_uuid=instance.uuid)
        if instance.device_metadata:
            instance.device_metadata = tags.without(instance.device_metadata, vif["address"])
            instance.save()

    def _tag(self, context: Any, instance: Any) -> None:
        instance.device_metadata = tags.device_metadata(context, instance)
        instance.save()

    # -- console and admin ------------------------------------------------------------------

    def get_console_output(self, context: Any, instance: Any) -> str:
        """Return the console log, in ASCII: Nova's compute manager can carry nothing else."""
        try:
            return consoletext.to_ascii(self.consoles.log(guest.name(instance)))
        except exception.LXDNotFound:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid)

    def get_serial_console(self, context: Any, instance: Any) -> Any:
        try:
            return self.consoles.serial(guest.name(instance))
        except exception.LXDNotFound:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid)

    def set_admin_password(self, instance: Any, new_pass: str) -> None:
        """Set the password of root, or of the user that the image calls ``os_admin_user``."""
        user = instance.image_meta.properties.get("os_admin_user") or ROOT
        if user != ROOT:
            # cloud-init makes that user at the first boot, and locks a password set before.
            self.consoles.run(self._name(instance), AWAIT_CLOUD_INIT, b"")
        self._set_password(instance, user, new_pass)

    def _set_password(self, instance: Any, user: str, password: str) -> None:
        code = self.consoles.run(
            self._name(instance), ["chpasswd"], f"{user}:{password}\n".encode()
        )
        if code == NOT_FOUND:
            raise nova_exception.SetAdminPasswdNotSupported()
        if code:
            raise nova_exception.InstancePasswordSetFailed(
                instance=instance.uuid, reason=f"chpasswd in the guest ended with code {code}"
            )

    def get_diagnostics(self, instance: Any) -> dict[str, int]:
        return diagnostics.legacy(self._running_state(instance))

    def get_instance_diagnostics(self, instance: Any) -> Any:
        state = self._running_state(instance)
        return diagnostics.standard(instance, state, self.get_info(instance).state)

    def _running_state(self, instance: Any) -> dict[str, Any]:
        return self.instances.state(self._name(instance))

    def poll_rebooting_instances(self, timeout: int, instances: Any) -> None:
        """Nothing: a reboot ends with the call, or fails."""

    # -- images -----------------------------------------------------------------------------

    def manage_image_cache(self, context: Any, all_instances: Any) -> None:
        self.images.age(instance.image_ref for instance in all_instances)

    def cache_image(self, context: Any, image_id: str) -> bool:
        """Import an image ahead of time; tell whether it was missing."""
        missing = not self.images.is_cached(image_id)
        self.images.ensure(context, image_id)
        return missing

    # -- block devices ----------------------------------------------------------------------

    def default_root_device_name(self, instance: Any, image_meta: Any, root_bdm: Any) -> str:
        return "/dev/vda"


def _image_id(instance: Any, image_meta: Any) -> str:
    """Return the Glance id to boot from: of the image, or else of the instance's own.

    :raises nova.exception.ImageUnacceptable: there is none, as for a volume-backed instance
    """
    found = image_meta.id if image_meta.obj_attr_is_set("id") else None
    if not (found or instance.image_ref):
        raise nova_exception.ImageUnacceptable(
            image_id="", reason="a container cannot boot from a volume: give an image"
        )
    return found or instance.image_ref
