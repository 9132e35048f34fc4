# SPDX-License-Identifier: Apache-2.0
"""What the instance code needs of the rest of the daemon, as one value."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.devices.interface import Host
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.host import idmap
from nova_lxd.lxd.host.graceperiod import GracePeriod
from nova_lxd.lxd.host.liblxc.client import Zygote
from nova_lxd.lxd.operations import Operations
from nova_lxd.lxd.paths import DEFAULT_PROJECT, Paths

if TYPE_CHECKING:
    from nova_lxd.lxd.images.service import Images
    from nova_lxd.lxd.network.service import Networks
    from nova_lxd.lxd.serverconfig import ServerConfig
    from nova_lxd.lxd.storage.service import Storage
    from nova_lxd.lxd.warnings import Warnings

_END_THREADS = 32


@dataclass
class Context:
    """The collaborators of :class:`~nova_lxd.lxd.instances.service.Instances`."""

    paths: Paths
    loop: asyncio.AbstractEventLoop
    db: Database
    events: Events
    operations: Operations
    config: ServerConfig
    warnings: Warnings
    storage: Storage
    networks: Networks
    images: Images
    liblxc: Zygote = field(default_factory=Zygote)
    grace: GracePeriod = field(default_factory=GracePeriod)
    #: Ends of containers, which must not wait for a thread of the API.
    executor: Executor = field(
        default_factory=lambda: ThreadPoolExecutor(_END_THREADS, "instance-end")
    )

    @cached_property
    def device_host(self) -> Host:
        """What devices are handed."""
        return Host(self.paths, self.storage, self.networks)

    @cached_property
    def ids(self) -> idmap.Range:
        """The host ids that unprivileged containers may use.

        :raises InternalError: the host grants root no usable range.
        """
        return idmap.host_range()

    def volume_project(self, project: str) -> str:
        """The project that keeps the custom volumes which ``project`` uses."""
        found = db_projects.get(self.db, project)
        return project if found and found.feature("storage.volumes") else DEFAULT_PROJECT
