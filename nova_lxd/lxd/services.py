# SPDX-License-Identifier: Apache-2.0
"""The parts of a running daemon, wired by :mod:`nova_lxd.lxd.daemon` and used by the API edge."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.operations import Operations
from nova_lxd.lxd.paths import Paths

if TYPE_CHECKING:
    from nova_lxd.lxd.api.server import Server
    from nova_lxd.lxd.ending import Ending
    from nova_lxd.lxd.environment import Environment
    from nova_lxd.lxd.images.service import Images
    from nova_lxd.lxd.instances.service import Instances
    from nova_lxd.lxd.network.service import Networks
    from nova_lxd.lxd.profiles import Profiles
    from nova_lxd.lxd.projects import Projects
    from nova_lxd.lxd.serverconfig import ServerConfig
    from nova_lxd.lxd.storage.custombackup import VolumeBackups
    from nova_lxd.lxd.storage.service import Storage
    from nova_lxd.lxd.trust import Trust
    from nova_lxd.lxd.warnings import Warnings


@dataclass
class Services:
    """Everything a handler may need; one object per daemon."""

    paths: Paths
    loop: asyncio.AbstractEventLoop
    executor: Executor
    db: Database
    events: Events
    operations: Operations
    config: ServerConfig
    environment: Environment
    trust: Trust
    projects: Projects
    profiles: Profiles
    warnings: Warnings
    storage: Storage
    volume_backups: VolumeBackups
    networks: Networks
    images: Images
    instances: Instances
    server: Server
    ending: Ending
    stop: asyncio.Event
    ready: asyncio.Event
    powered_down: bool = False

    def power_down(self) -> None:
        """End the daemon after its instances: networks and pools are released too."""
        self.powered_down = True
        self.stop.set()
