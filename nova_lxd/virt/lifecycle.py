# SPDX-License-Identifier: Apache-2.0
"""From a Nova instance to a running container and back: create, start, stop, destroy.

Every step that changes the host pushes its undo; a failed spawn leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import nova.conf
from nova import exception as nova_exception
from nova.compute import power_state
from nova.virt import driver
from oslo_log import log as logging
from oslo_utils import excutils

from nova_lxd.virt import exception, guest, metadata, vifs
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.host import Host
from nova_lxd.virt.images.cache import ImageCache
from nova_lxd.virt.instances import Instances

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class Lifecycle:
    """Brings the parts together; holds no state of its own."""

    def __init__(
        self,
        virtapi: Any,
        client: LXDClient,
        host: Host,
        instances: Instances,
        images: ImageCache,
    ) -> None:
        self._virtapi = virtapi
        self._client = client
        self._host = host
        self._instances = instances
        self._images = images
        self._drives = metadata.ConfigDrives(CONF.lxd.config_drive_dir)

    # -- spawn ------------------------------------------------------------------------------

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_id: str,
        injected_files: list[tuple[str, bytes]],
        admin_password: str | None,
        network_info: Any,
        block_device_info: dict[str, Any] | None,
        power_on: bool,
    ) -> None:
        """Create the container and, with ``power_on``, start it once its ports are plugged."""
        began = time.monotonic()
        name = guest.name(instance)
        with contextlib.ExitStack() as undo:
            fingerprint = self._images.ensure(context, image_id, instance.trusted_certs)
            devices = self._volumes(instance, block_device_info, undo)
            asked = time.monotonic()
            # Nova has Neutron allocate the ports meanwhile: to look at them is to wait for that.
            network_info = network_info or []
            waited = time.monotonic() - asked
            devices[guest.ROOT] = guest.root(instance.flavor, CONF.lxd.pool)
            config = self.config(instance, instance.flavor)
            config |= metadata.cloud_init_keys(instance, network_info)
            self._instances.create(name, fingerprint, config, devices)
            undo.callback(quietly, self._instances.delete, name)
            for path, content in (*metadata.network_files(network_info), *(injected_files or ())):
                self._instances.push_file(name, path, content)
            undo.callback(quietly, self._drives.remove, instance)
            self._config_drive(instance, network_info, injected_files, admin_password)
            undo.callback(quietly, self.unplug, instance, network_info)
            waited += self._plug_and_start(instance, network_info, power_on)
            undo.pop_all()
        took = time.monotonic() - began
        LOG.info(
            "Spawned in %.3f s, %.3f s of it waiting for Neutron", took, waited, instance=instance
        )

    def config(self, instance: Any, flavor: Any) -> dict[str, str]:
        """Return the LXD config keys of an instance with a flavor on this host."""
        node_cpus: dict[int, set[int]] = {}
        for cpu, where in self._host.cpus().items():
            node_cpus.setdefault(where["node"], set()).add(cpu)
        limited = CONF.compute.cpu_shared_set or CONF.compute.cpu_dedicated_set
        shared = self._host.shared_cpus() if limited else None
        return guest.config(instance, flavor, CONF.lxd, shared, node_cpus)

    def _volumes(
        self, instance: Any, block_device_info: Any, undo: contextlib.ExitStack
    ) -> dict[str, dict[str, str]]:
        """Make the ephemeral disks' volumes; return their devices."""
        devices = {}
        disks = driver.block_device_info_get_ephemerals(block_device_info or {})
        for index, disk in enumerate(disks):
            volume = guest.ephemeral_volume(instance, index)
            self._client.post(
                "storage-pools",
                CONF.lxd.pool,
                "volumes",
                "custom",
                json={"name": volume, "config": {"size": f"{disk['size']}GiB"}},
            )
            undo.callback(quietly, self._delete_volume, volume)
            devices[f"ephemeral{index}"] = guest.ephemeral(instance, index, CONF.lxd.pool)
        return devices

    def _config_drive(
        self,
        instance: Any,
        network_info: Any,
        files: list[tuple[str, bytes]],
        admin_password: str | None,
    ) -> None:
        if not metadata.wanted(instance):
            return
        name = guest.name(instance)
        owner = metadata.container_root(self._instances.get(name)["config"])
        self._drives.write(instance, network_info, files, admin_password, owner)
        device = guest.config_drive(self._drives.path(instance))
        self._instances.change(name, devices={"config-drive": device})

    def _plug_and_start(self, instance: Any, network_info: Any, power_on: bool) -> float:
        """Plug the ports, wait until Neutron has wired them, start; the seconds of the wait.

        :raises nova.exception.VirtualInterfaceCreateException: Neutron did not say so in time
        """
        timeout = CONF.vif_plugging_timeout
        events = []
        plugged = time.monotonic()
        if power_on and timeout:
            inactive = [vif for vif in network_info if vif.get("active", True) is False]
            events = [("network-vif-plugged", vif["id"]) for vif in inactive]
        try:
            with self._virtapi.wait_for_instance_event(
                instance, events, timeout=timeout, error_callback=_plug_failed
            ):
                self.plug(instance, network_info)
                plugged = time.monotonic()
        except nova_exception.InstanceEventTimeout:
            if CONF.vif_plugging_is_fatal:
                raise nova_exception.VirtualInterfaceCreateException()
            LOG.warning("Starting without network-vif-plugged", instance=instance)
        waited = time.monotonic() - plugged
        if power_on:
            self._instances.start(guest.name(instance))
        return waited

    # -- ports ------------------------------------------------------------------------------

    def plug(self, instance: Any, network_info: Iterable[dict[str, Any]]) -> None:
        """Plug all ports of a stopped instance afresh and make them its nics."""
        with contextlib.ExitStack() as undo:
            for vif in network_info:
                vifs.plug(instance, vif)
                undo.callback(quietly, vifs.unplug, instance, vif)
            self._set_nics(guest.name(instance), vifs.nics(network_info))
            undo.pop_all()

    def _set_nics(self, name: str, nics: dict[str, dict[str, str]]) -> None:
        """Make these the instance's ports, with the guest's names they had before."""
        old = {
            key: device
            for key, device in self._instances.get(name)["devices"].items()
            if key.startswith(vifs.DEVICE_PREFIX)
        }
        kept = {old[key]["name"] for key in nics if key in old}
        for key, device in nics.items():
            if key in old:
                device["name"] = old[key]["name"]
            elif device["name"] in kept:
                device["name"] = vifs.free_guest_name({**old, **nics})
        if nics != old:
            gone = {key: None for key in old if key not in nics}
            self._instances.change(name, devices={**nics, **gone})

    def unplug(self, instance: Any, network_info: Iterable[dict[str, Any]] | None) -> None:
        """Unplug all ports; absent ones are unplugged already."""
        for vif in network_info or ():
            vifs.unplug(instance, vif)

    def attach(self, instance: Any, vif: dict[str, Any]) -> None:
        """Plug one more port and hand it to the instance, live where it runs."""
        name = guest.name(instance)
        device = vifs.nic(vif, vifs.free_guest_name(self._instances.get(name)["devices"]))
        with contextlib.ExitStack() as undo:
            vifs.plug(instance, vif)
            undo.callback(quietly, vifs.unplug, instance, vif)
            self._instances.change(name, devices={vifs.device_name(vif): device})
            undo.pop_all()

    def detach(self, instance: Any, vif: dict[str, Any]) -> None:
        """Take a port away from the instance and unplug it."""
        self._instances.change(guest.name(instance), devices={vifs.device_name(vif): None})
        vifs.unplug(instance, vif)

    def after_guest_restart(self, instance: Any, network_info: Iterable[dict[str, Any]]) -> None:
        """Mend the ports of a guest that rebooted by itself.

        A pair that was made anew meanwhile needs a new switch port; one that vanished with the
        old namespace is plugged again and handed over live.
        """
        for vif in network_info:
            if not vifs.is_whole(instance, vif):
                key = vifs.device_name(vif)
                self._instances.change(guest.name(instance), devices={key: None})
                self.attach(instance, vif)
            elif vifs.is_new(vif):
                vifs.replug(instance, vif)

    # -- power ------------------------------------------------------------------------------

    def start(self, instance: Any, network_info: Iterable[dict[str, Any]]) -> None:
        """Start a stopped instance with freshly plugged ports; a running one is left alone."""
        name = guest.name(instance)
        if self._state(instance) == power_state.SHUTDOWN:
            self.plug(instance, network_info)
        self._instances.start(name)

    def stop(self, instance: Any, grace: int = 0) -> None:
        """Stop an instance; after ``grace`` seconds by force.

        :raises nova.exception.InstanceNotFound:
        """
        self._state(instance)
        self._instances.stop(guest.name(instance), grace)

    def reboot(self, instance: Any, network_info: Any, grace: int) -> None:
        """Stop, plug afresh, start."""
        self.stop(instance, grace)
        self.start(instance, network_info)

    def _state(self, instance: Any) -> int:
        try:
            return self._instances.power_state(guest.name(instance))
        except exception.LXDNotFound:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid)

    # -- the end ----------------------------------------------------------------------------

    def destroy(self, instance: Any) -> None:
        """Stop and delete the container; an absent one is deleted already."""
        self._instances.delete(guest.name(instance))

    def cleanup(
        self,
        instance: Any,
        network_info: Any,
        block_device_info: Any,
        destroy_disks: bool,
        destroy_vifs: bool,
    ) -> None:
        """Remove what the container leaves: ports, config drive, ephemeral volumes."""
        if destroy_vifs:
            try:
                self.unplug(instance, network_info)
            except nova_exception.NovaException:
                # the rest must go as well; a port that stays is found at the next start
                with excutils.save_and_reraise_exception(reraise=False):
                    LOG.exception("A port stays plugged", instance=instance)
        self._drives.remove(instance)
        if not destroy_disks:
            return
        prefix = f"{guest.name(instance)}-eph"
        for volume in self._client.get(
            "storage-pools", CONF.lxd.pool, "volumes", "custom", recursion="1"
        ):
            if volume["name"].startswith(prefix):
                self._delete_volume(volume["name"])

    def _delete_volume(self, volume: str) -> None:
        self._client.delete(
            "storage-pools", CONF.lxd.pool, "volumes", "custom", volume, missing_ok=True
        )


def _plug_failed(event_name: str, instance: Any) -> None:
    """Stop the wait when Neutron reports a failed port, if the operator wants it fatal."""
    LOG.error("Neutron reports a failure on event %s", event_name, instance=instance)
    if CONF.vif_plugging_is_fatal:
        raise nova_exception.VirtualInterfaceCreateException()


def quietly(undo: Any, *args: Any) -> None:
    """Run an undo step: its failure is logged and must not hide the reason for it."""
    try:
        undo(*args)
    except Exception:
        LOG.exception("Undoing %s%s failed", undo.__qualname__, args)
