# SPDX-License-Identifier: Apache-2.0
"""What every kind of device can do, and the values that go in and out of it.

A device changes the host and describes what the instance has to get; only the instance layer
gives it to the instance.  Devices know no database and no liblxc.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.host.netlink import Interface, IPAddress
from nova_lxd.lxd.network import values
from nova_lxd.lxd.network.interface import Network
from nova_lxd.lxd.paths import Paths, storage_name
from nova_lxd.lxd.schema.configkeys import KeyTable

Volatile = dict[str, str | None]
"""Changes of ``volatile.DEVICE.*``, without that prefix; None removes a key."""


@dataclass(frozen=True)
class InstanceView:
    """What a device may know of its instance, or of the profile that holds it.

    :param name: the instance's name, empty for a profile.
    :param idmap: the map in use or next to be used; falsy for a privileged container.
    :param init_pid: its init process while it runs, else None.
    :param config: the expanded configuration, ``volatile.*`` included.
    :param devices: the expanded devices; those of the profile itself for a profile.
    :param is_new: the instance is being made, or copied from another.
    """

    project: str
    name: str
    idmap: Idmap
    init_pid: int | None
    config: Mapping[str, str]
    devices: Mapping[str, Mapping[str, str]]
    volume_project: str = "default"
    is_new: bool = False

    @property
    def is_profile(self) -> bool:
        return not self.name

    @property
    def stored_name(self) -> str:
        """The instance's name on disk."""
        return storage_name(self.project, self.name)

    @property
    def root_ids(self) -> tuple[int, int]:
        """Host uid and gid of the container's root."""
        if not self.idmap:
            return 0, 0
        return self.idmap.host_uid(0) or 0, self.idmap.host_gid(0) or 0

    def volatile(self, device: str, key: str) -> str:
        """``volatile.DEVICE.KEY``, empty when unset."""
        return self.config.get(f"volatile.{device}.{key}", "")


@dataclass(frozen=True)
class CustomVolume:
    """A custom volume: where it is (to be) mounted on the host, and whose ids it holds.

    :param unmapped: ``security.unmapped``: files belong to ids of the host.  Else they belong to
        ids of the instance and are mapped for each instance that mounts them, so that instances
        with different maps (``security.shifted``) can share it.
    """

    path: Path
    unmapped: bool = False
    content_type: str = "filesystem"


class Volumes(Protocol):
    """What disks need of storage."""

    def pool_exists(self, pool: str) -> bool:
        """Is there a pool of this name?"""

    def custom_volume(self, project: str, pool: str, volume: str) -> CustomVolume:
        """Look a custom volume up; it need not be mounted.  NotFound: there is none."""

    def mount_custom(self, project: str, pool: str, volume: str, user: str) -> CustomVolume:
        """Mount a custom volume for ``user`` (any text, one per disk); idempotent."""

    def unmount_custom(self, project: str, pool: str, volume: str, user: str) -> None:
        """End one user's mount; the volume goes when it was the last.  Idempotent."""

    def set_root_size(self, project: str, instance: str, pool: str, size: str) -> None:
        """Give an instance's root a size, unlimited when empty."""


class Networks(Protocol):
    """What nics need of the managed networks."""

    def find(self, project: str, name: str) -> Network | None:
        """The managed network that instances of the project see by this name."""


@dataclass(frozen=True)
class Host:
    """The services that devices are handed."""

    paths: Paths
    volumes: Volumes
    networks: Networks


@dataclass(frozen=True)
class Mount:
    """Something on the host that has to appear in the instance.

    :param source: a directory, or a file or device node, mounted or made ready by the device:
        owners and read-only are right already and the mount can be taken as it is.
    :param target: absolute path inside; made when it is missing.
    """

    source: Path
    target: str
    directory: bool
    readonly: bool = False
    recursive: bool = False
    propagation: str = ""

    def liblxc(self) -> list[tuple[str, str]]:
        """The configuration items that mount it when the container starts."""
        options = ["rbind" if self.recursive else "bind"]
        if self.readonly:
            options.append("ro")
        if self.propagation:
            options.append(self.propagation)
        options.append("create=dir" if self.directory else "create=file")
        fields = (_octal(str(self.source)), _octal(self.target.lstrip("/")), "none")
        return [("lxc.mount.entry", f"{' '.join(fields)} {','.join(options)} 0 0")]


def _octal(text: str) -> str:
    """A path as fstab(5) writes it."""
    for character in "\\ \t\n#":
        text = text.replace(character, f"\\{ord(character):03o}")
    return text


@dataclass(frozen=True)
class Nic:
    """An interface of the host that is handed over to the instance.

    :param link: its name on the host; MAC address and MTU are set already.
    :param name: its name inside.
    :param addresses: addresses that it has inside from the start.
    :param gateways: default gateways, reachable on the link itself.
    """

    link: str
    name: str
    hwaddr: str = ""
    addresses: Sequence[Interface] = ()
    gateways: Sequence[IPAddress] = ()

    def liblxc(self, index: int) -> list[tuple[str, str]]:
        """The configuration items of ``lxc.net.INDEX``."""
        items = [("type", "phys"), ("name", self.name), ("flags", "up"), ("link", self.link)]
        if self.hwaddr:
            items.append(("hwaddr", self.hwaddr))
        items += [(f"ipv{a.version}.address", str(a)) for a in self.addresses]
        items += [(f"ipv{g.version}.gateway", str(g)) for g in self.gateways]
        return [(f"lxc.net.{index}.{key}", value) for key, value in items]


@dataclass(frozen=True)
class BlockLimit:
    """I/O limits of one block device; 0 is no limit."""

    major: int
    minor: int
    read_bytes: int = 0
    read_operations: int = 0
    write_bytes: int = 0
    write_operations: int = 0


@dataclass(frozen=True)
class RootDisk:
    """What the root disk asks of the start."""

    pool: str
    readonly: bool


@dataclass
class RunConfig:
    """What a started device wants the instance to get.

    From :meth:`Device.stop`, what the running instance has to give back: then only ``mounts`` and
    ``device_rules`` count.

    :param liblxc: further configuration items of liblxc.
    :param device_rules: rules for the devices cgroup, such as ``c 10:200 rwm``.
    :param volatile: what to record; the device finds itself again by it.
    """

    liblxc: list[tuple[str, str]] = field(default_factory=list)
    mounts: list[Mount] = field(default_factory=list)
    nics: list[Nic] = field(default_factory=list)
    device_rules: list[str] = field(default_factory=list)
    block_limits: list[BlockLimit] = field(default_factory=list)
    root: RootDisk | None = None
    volatile: Volatile = field(default_factory=dict)


class Device(abc.ABC):
    """One device of one instance.

    An object is a view of one stored configuration and keeps nothing between calls: after a
    restart of the daemon a new object does the same.  Callers serialise the verbs per instance
    and record ``volatile`` changes before the next verb.
    """

    keys: ClassVar[KeyTable]
    required: ClassVar[frozenset[str]] = frozenset()
    updatable: ClassVar[frozenset[str]] = frozenset()
    """Keys that :meth:`update` can change; a change of any other means remove and add."""
    can_hotplug: ClassVar[bool] = True

    def __init__(
        self, name: str, config: Mapping[str, str], instance: InstanceView, host: Host
    ) -> None:
        self.name = name
        self.config = dict(config)
        self.instance = instance
        self.host = host

    def get(self, key: str) -> str:
        """A key's value, empty when unset."""
        return self.config.get(key, "")

    def flag(self, key: str) -> bool:
        """Does a boolean key say yes?"""
        return values.is_true(self.config.get(key))

    def volatile(self, key: str) -> str:
        """This device's ``volatile`` key, empty when unset."""
        return self.instance.volatile(self.name, key)

    def directory(self) -> Path:
        """Where nodes and mounts of the instance's devices are prepared."""
        return self.host.paths.instance_devices(self.instance.project, self.instance.name)

    def validate(self) -> None:
        """Check the configuration; changes nothing.  BadRequest: something in it is wrong."""
        values.check_config(
            {key: value for key, value in self.config.items() if key != "type"},
            self.keys,
            invalid=lambda key, why: (
                f"Invalid value for device option {values.quoted(key)}: {why}"
            ),
            unknown=lambda key: f"Invalid device option {values.quoted(key)}",
            required=self.required,
        )
        self.check()

    def check(self) -> None:  # noqa: B027 (an optional verb)
        """What :meth:`validate` checks beyond single keys; nothing unless a device says so."""

    def add(self) -> Volatile:
        """Prepare a device that the instance got; the instance need not run.  Idempotent."""
        return {}

    @abc.abstractmethod
    def start(self) -> RunConfig:
        """Make it ready on the host before the instance starts or gets it plugged.

        Leftovers of an earlier life are removed first; on failure what was done is undone.
        """

    def post_start(self) -> None:  # noqa: B027 (an optional verb)
        """Finish once the instance runs (``init_pid`` is set); undone by :meth:`post_stop`."""

    def update(self, old: Mapping[str, str]) -> RunConfig:
        """Apply a change of ``updatable`` keys from ``old``; live when the instance runs."""
        return RunConfig()

    def stop(self) -> RunConfig:
        """Say what a running instance has to give back, and take back what the device can.

        :meth:`post_stop` follows once the instance gave it back.
        """
        return RunConfig()

    def post_stop(self) -> Volatile:
        """Remove from the host all that start made; the instance is stopped or gave it back.

        Idempotent, and what undoes a :meth:`start` of which nothing was recorded.
        """
        return {}

    def remove(self) -> None:  # noqa: B027 (an optional verb)
        """Forget a device that the instance lost; :meth:`post_stop` came before.  Idempotent."""


class RefusedDevice(Device):
    """A type of device that LXD knows and this daemon does not offer."""

    what: ClassVar[str]

    def validate(self) -> None:
        raise BadRequest(f"Unsupported device type: {self.what} devices are not available here")

    def start(self) -> RunConfig:
        raise BadRequest(f"Unsupported device type: {self.what} devices are not available here")
