# SPDX-License-Identifier: Apache-2.0
"""What a guest may know of itself over /dev/lxd (LXD: devlxd), and who asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nova_lxd.lxd.errors import Forbidden, NotFound
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.schema.configkeys import is_true

if TYPE_CHECKING:
    from nova_lxd.lxd.events import Events
    from nova_lxd.lxd.instances.service import Instances

_PAYLOAD = "lxc.payload."
_PREFIXES = ("user.", "cloud-init.")


def payload(cgroup: str, pid: int) -> str | None:
    """The stored name of the container that a process is in; None: in none of this daemon.

    It is told by the control group, which a guest cannot leave: the group right below the
    daemon's own (``cgroup``) is the container's, whatever the guest nests in it.
    """
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return None
    for line in text.splitlines():
        _before, found, rest = line.partition(f"/{cgroup}/{_PAYLOAD}")
        if found:
            return rest.split("/", 1)[0]
    return None


def caller(instances: Instances, stored: str) -> Instance:
    """The running instance of :func:`payload`.

    :raises Forbidden: it runs no more.
    """
    for instance in instances.all():
        # After a lost monitor liblxc appends -N to the group's name.
        if instance.is_running and (
            stored == instance.stored_name or _numbered(stored, instance.stored_name)
        ):
            return instance
    raise Forbidden("Talking to /dev/lxd failed: the caller is in no container of this daemon")


def _numbered(group: str, name: str) -> bool:
    rest = group.removeprefix(f"{name}-")
    return rest != group and rest.isdigit()


def expanded(instances: Instances, instance: Instance) -> Expanded:
    """:raises Forbidden: the instance's owner has closed /dev/lxd."""
    found = instances.expanded(instances.record(instance))
    if not is_true(found.config.get("security.devlxd", "true")):
        raise Forbidden("Talking to /dev/lxd failed: security.devlxd is false")
    return found


def visible(config: Mapping[str, str]) -> dict[str, str]:
    """The keys that a guest sees."""
    return {k: v for k, v in config.items() if k.startswith(_PREFIXES)}


def config_value(config: Mapping[str, str], key: str) -> str:
    """One key's value.

    :raises Forbidden: guests do not see keys of that kind.  :raises NotFound: it is not set.
    """
    if not key.startswith(_PREFIXES):
        raise Forbidden("not authorized")
    if key not in config:
        raise NotFound("not found")
    return config[key]


def meta_data(instance: Instance, config: Mapping[str, str]) -> str:
    """The meta-data that cloud-init reads."""
    text = f"#cloud-config\ninstance-id: {_instance_id(instance, config)}\n"
    text += f"local-hostname: {instance.name}\n"
    return text + config.get("user.meta-data", "")


def _instance_id(instance: Instance, config: Mapping[str, str]) -> str:
    return config.get("volatile.cloud-init.instance-id") or instance.name


def announce_config(
    events: Events, instance_id: int, was: Mapping[str, str], now: Mapping[str, str]
) -> None:
    """Tell the guest which of the keys it sees have changed."""
    old, new = visible(was), visible(now)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            metadata = {"key": key, "old_value": old.get(key, ""), "value": new.get(key, "")}
            events.publish_to_guest(instance_id, "config", metadata)


def announce_devices(
    events: Events,
    instance_id: int,
    was: Mapping[str, Mapping[str, str]],
    now: Mapping[str, Mapping[str, str]],
) -> None:
    """Tell the guest which devices came, went or changed."""
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) == now.get(name):
            continue
        action = "removed" if name not in now else "added" if name not in was else "updated"
        config: Mapping[str, Any] = now.get(name) or was[name]
        metadata = {"action": action, "name": name, "config": dict(config)}
        events.publish_to_guest(instance_id, "device", metadata)
