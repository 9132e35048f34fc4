# SPDX-License-Identifier: Apache-2.0
"""A host for devices whose storage and networks are held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nova_lxd.lxd.devices.interface import CustomVolume, Host, InstanceView
from nova_lxd.lxd.errors import NotFound
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.network.interface import Network
from nova_lxd.lxd.paths import Paths


@dataclass
class FakeVolumes:
    """Custom volumes are directories; who holds a mount is recorded."""

    volumes: dict[tuple[str, str, str], CustomVolume] = field(default_factory=dict)
    pools: set[str] = field(default_factory=lambda: {"default"})
    users: set[tuple[str, str, str, str]] = field(default_factory=set)
    sizes: dict[tuple[str, str], str] = field(default_factory=dict)

    def pool_exists(self, pool: str) -> bool:
        return pool in self.pools

    def custom_volume(self, project: str, pool: str, volume: str) -> CustomVolume:
        try:
            return self.volumes[project, pool, volume]
        except KeyError:
            raise NotFound("Storage volume not found")

    def mount_custom(self, project: str, pool: str, volume: str, user: str) -> CustomVolume:
        self.users.add((project, pool, volume, user))
        return self.custom_volume(project, pool, volume)

    def unmount_custom(self, project: str, pool: str, volume: str, user: str) -> None:
        self.users.discard((project, pool, volume, user))

    def set_root_size(self, project: str, instance: str, pool: str, size: str) -> None:
        self.sizes[project, instance] = size


@dataclass
class FakeNetworks:
    """Networks by name, the same for every project."""

    networks: dict[str, Network] = field(default_factory=dict)

    def find(self, project: str, name: str) -> Network | None:
        return self.networks.get(name)


def make_host(root: Path, *networks: Network) -> Host:
    """A host whose LXD_DIR is ``root``."""
    return Host(Paths(root), FakeVolumes(), FakeNetworks({n.name: n for n in networks}))


def view(
    devices: Mapping[str, Mapping[str, str]] | None = None,
    *,
    name: str = "c1",
    project: str = "default",
    idmap: Idmap | None = None,
    init_pid: int | None = None,
    config: Mapping[str, str] | None = None,
) -> InstanceView:
    """An instance, stopped and privileged unless said otherwise."""
    return InstanceView(
        project=project,
        name=name,
        idmap=idmap or Idmap(),
        init_pid=init_pid,
        config=config or {},
        devices=devices or {},
    )
