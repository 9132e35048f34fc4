# SPDX-License-Identifier: Apache-2.0
"""An instance in memory: whether it runs, as which processes, with which devices.

Its configuration is in the database only; who needs it reads it there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.host.liblxc.running import Running
from nova_lxd.lxd.paths import storage_name

STOPPED, RUNNING, FROZEN, ERROR = 102, 103, 110, 112
STARTING, STOPPING = 106, 107
STATUS_TEXT = {
    STOPPED: "Stopped",
    RUNNING: "Running",
    STARTING: "Starting",
    STOPPING: "Stopping",
    FROZEN: "Frozen",
    ERROR: "Error",
}


@dataclass(eq=False)
class Instance:
    """The run-time side of one instance.

    ``running`` and ``frozen`` change only under the instance's action lock;
    ``ended`` is set while it does not run.
    """

    id: int
    project: str
    name: str
    running: Running | None = None
    frozen: bool = False
    idmap: Idmap = field(default_factory=Idmap)
    #: Whoever will clean up after the container's end, so that the watcher leaves it alone.
    claimed: bool = False
    #: Its control groups while it runs, once somebody asked for them.
    groups: Cgroup | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.ended.set()

    @classmethod
    def of(cls, record: InstanceRecord) -> Instance:
        return cls(record.id, record.project, record.name)

    @property
    def key(self) -> tuple[str, int]:
        """Its key in the action locks; stays the same over a rename."""
        return ("instance", self.id)

    @property
    def stored_name(self) -> str:
        """Its name on disk and for liblxc."""
        return storage_name(self.project, self.name)

    @property
    def status(self) -> int:
        """LXD's status code."""
        if self.running is None:
            return STOPPED
        return FROZEN if self.frozen else RUNNING

    @property
    def is_running(self) -> bool:
        """Running or frozen."""
        return self.running is not None

    def __str__(self) -> str:
        return f"instance {self.name!r}" + (
            "" if self.project == "default" else f" of project {self.project!r}"
        )
