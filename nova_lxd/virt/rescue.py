# SPDX-License-Identifier: Apache-2.0
"""Rescue: the instance's name is lent to a container of the rescue image.

The instance itself is renamed and keeps its root; that root is mounted at /mnt of the rescue
container. So power, console and password work on the rescue container without knowing of it.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import nova.conf
from nova import exception as nova_exception
from oslo_log import log as logging

from nova_lxd.virt import guest
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.events import UUID_KEY
from nova_lxd.virt.instances import Instances
from nova_lxd.virt.lifecycle import Lifecycle, quietly

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

RESCUED_KEY = "user.nova.rescued"  # on the instance itself, while its name is lent
MOUNTED_POOLS = ("dir", "btrfs")  # whose volumes of stopped instances are mounted on the host


def rescued_name(instance: Any) -> str:
    """Return the name of the instance itself during a rescue."""
    return guest.name(instance) + "-rescued"


class Rescue:
    """Rescue and unrescue on one host."""

    def __init__(
        self, client: LXDClient, instances: Instances, lifecycle: Lifecycle, images: Any
    ) -> None:
        self._client = client
        self._instances = instances
        self._lifecycle = lifecycle
        self._images = images

    def rescue(self, context: Any, instance: Any, network_info: Any, image_id: str) -> None:
        """Start the rescue container; on failure the instance is as it was, stopped.

        :raises nova.exception.InstanceNotRescuable: the storage cannot do it
        """
        driver = self._client.get("storage-pools", CONF.lxd.pool)["driver"]
        if driver not in MOUNTED_POOLS:
            raise nova_exception.InstanceNotRescuable(
                instance_id=instance.uuid,
                reason=f"the root of a stopped instance cannot be mounted from a pool of driver"
                f" '{driver}'; rescue needs one of {', '.join(MOUNTED_POOLS)}",
            )
        name, aside = guest.name(instance), rescued_name(instance)
        fingerprint = self._images.ensure(context, image_id, instance.trusted_certs)
        with contextlib.ExitStack() as undo:
            self._instances.stop(name)
            undo.callback(quietly, self._bring_back, instance)
            self._set_aside(instance)
            record = self._instances.get(aside)
            config = self._lifecycle.config(instance, instance.flavor)
            devices = {
                guest.ROOT: guest.root(instance.flavor, CONF.lxd.pool),
                "rescued": self._old_root(aside, record["config"], config),
            }
            self._instances.create(name, fingerprint, config, devices)
            undo.callback(quietly, self._instances.delete, name)
            undo.callback(quietly, self._lifecycle.unplug, instance, network_info)
            self._lifecycle.start(instance, network_info)
            undo.pop_all()

    def unrescue(self, instance: Any, network_info: Any) -> None:
        """Delete the rescue container and start the instance itself again.

        Without a rescue, it is only made sure that the instance runs.
        """
        if not self._instances.exists(rescued_name(instance)):
            self._lifecycle.start(instance, network_info)
            return
        self._instances.delete(guest.name(instance))
        self._bring_back(instance)
        self._lifecycle.start(instance, network_info)

    def discard(self, instance: Any) -> None:
        """Delete the instance itself when it is destroyed during a rescue."""
        self._instances.delete(rescued_name(instance))

    def _set_aside(self, instance: Any) -> None:
        self._instances.rename(guest.name(instance), rescued_name(instance))
        marks = {UUID_KEY: None, RESCUED_KEY: instance.uuid}
        self._instances.change(rescued_name(instance), config=marks)

    def _bring_back(self, instance: Any) -> None:
        aside = rescued_name(instance)
        if not self._instances.exists(aside):
            return
        self._instances.change(aside, config={UUID_KEY: instance.uuid, RESCUED_KEY: None})
        self._instances.rename(aside, guest.name(instance))

    def _old_root(
        self, aside: str, old: dict[str, str], config: dict[str, str | None]
    ) -> dict[str, str]:
        """Return the device of the old root, with ids that the rescue container understands.

        Where LXD keeps the tree unshifted, an idmapped mount shifts it. Where it was chowned to
        the instance's host ids, the rescue container gets the same ids.
        """
        project = self._client.project
        directory = aside if project == "default" else f"{project}_{aside}"
        pool = self._client.var_dir / "storage-pools" / CONF.lxd.pool
        device = {
            "type": "disk",
            "source": str(pool / "containers" / directory / "rootfs"),
            "path": "/mnt",
        }
        shifted = json.loads(old.get("volatile.last_state.idmap") or "[]")
        if not shifted:
            device["shift"] = "true"
        elif config.get("security.idmap.isolated") == "true":
            config["security.idmap.base"] = str(shifted[0]["Hostid"])
        return device
