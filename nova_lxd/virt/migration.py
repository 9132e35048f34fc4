# SPDX-License-Identifier: Apache-2.0
"""Resize on the same host: the container stays, its limits change, live where LXD can.

Nova's flow was made for two copies of a disk. Here the one container carries the mark
:data:`RESIZE_KEY` until the resize is confirmed or reverted; while it is there, the destroy()
that is part of a revert leaves the container alone.
"""

from __future__ import annotations

from typing import Any

import nova.conf
from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states

from nova_lxd.virt import exception, guest
from nova_lxd.virt.host import Host
from nova_lxd.virt.instances import Instances
from nova_lxd.virt.lifecycle import Lifecycle

CONF = nova.conf.CONF

RESIZE_KEY = "user.nova.resize"
# Keys that a running container cannot change, or that take effect at its next start only.
AT_START = (
    "security.privileged", "security.nesting", "security.idmap.", "security.syscalls.",
    guest.VIF_RATES_KEY,
)  # fmt: skip
LIMITS = ("limits.", "security.syscalls.", guest.VIF_RATES_KEY)


class Resize:
    """Cold migration verbs, as far as source and destination are the same host."""

    def __init__(self, host: Host, instances: Instances, lifecycle: Lifecycle) -> None:
        self._host = host
        self._instances = instances
        self._lifecycle = lifecycle

    def begin(self, context: Any, instance: Any, dest: str, flavor: Any) -> None:
        """Apply the new flavor; a failure leaves the instance as it was.

        :raises nova.exception.InstanceFaultRollback: nothing was changed, and why
        """
        self._check(context, instance, dest, flavor)
        name = guest.name(instance)
        try:
            self._instances.change(name, config={RESIZE_KEY: "same-host"})
            with instance.mutated_migration_context():
                self.apply(instance, flavor)
        except (exception.LXDError, nova_exception.InstanceDeployFailure) as e:
            self.apply(instance, instance.flavor)
            self._instances.change(name, config={RESIZE_KEY: None})
            raise nova_exception.InstanceFaultRollback(nova_exception.ResizeError(reason=e))

    def apply(self, instance: Any, flavor: Any) -> None:
        """Give the container a flavor's limits; it is stopped only if they ask for it."""
        name = guest.name(instance)
        record = self._instances.get(name)
        wanted = self._lifecycle.config(instance, flavor)
        config: dict[str, str | None] = dict(wanted)
        for key in record["config"]:
            # a limit the new flavor does not have goes away
            if key.startswith(LIMITS) and key not in wanted:
                config[key] = None
        changed = {k for k, v in config.items() if record["config"].get(k) != v}
        if any(key.startswith(AT_START) for key in changed):
            self._instances.stop(name, CONF.lxd.shutdown_grace)
        root = guest.root(flavor, CONF.lxd.pool)
        self._instances.change(name, config=config, devices={guest.ROOT: root})

    def finish(self, instance: Any, network_info: Any, power_on: bool) -> None:
        """Apply the instance's own flavor and bring it to the wanted power state."""
        if not self._instances.exists(guest.name(instance)):
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid)
        self.apply(instance, instance.flavor)
        if power_on:
            self._lifecycle.start(instance, network_info)

    def revert(self, instance: Any, network_info: Any, power_on: bool) -> None:
        """Go back to the old flavor, which the instance has again."""
        self.finish(instance, network_info, power_on)
        self._unmark(instance)

    def confirm(self, instance: Any) -> None:
        """The resize stands."""
        self._unmark(instance)

    def is_being_reverted(self, instance: Any) -> bool:
        """Tell whether a destroy() belongs to the revert of a resize on this host."""
        if instance.task_state != task_states.RESIZE_REVERTING:
            return False
        try:
            record = self._instances.get(guest.name(instance))
        except exception.LXDNotFound:
            return False
        return RESIZE_KEY in record["config"]

    def _unmark(self, instance: Any) -> None:
        self._instances.change(guest.name(instance), config={RESIZE_KEY: None})

    def _check(self, context: Any, instance: Any, dest: str, flavor: Any) -> None:
        reason = None
        target = self._destination(context, instance, dest)
        if target != self._host.name:
            reason = (
                f"moving to the other host '{target}' is not possible with this driver yet;"
                " resize on the same host ([DEFAULT]allow_resize_to_same_host)"
            )
        elif flavor.root_gb and flavor.root_gb < instance.flavor.root_gb:
            reason = (
                f"the root disk cannot shrink from {instance.flavor.root_gb} to"
                f" {flavor.root_gb} GiB"
            )
        elif flavor.ephemeral_gb != instance.flavor.ephemeral_gb:
            reason = "ephemeral disks cannot change their size"
        if reason:
            raise nova_exception.InstanceFaultRollback(nova_exception.ResizeError(reason=reason))

    def _destination(self, context: Any, instance: Any, dest: str) -> str:
        """Return the destination's host name; Nova hands over its address only."""
        if instance.migration_context is not None:
            migration_id = instance.migration_context.migration_id
            return objects.Migration.get_by_id(context, migration_id).dest_compute
        return self._host.name if dest == CONF.my_ip else dest
