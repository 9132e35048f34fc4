# SPDX-License-Identifier: Apache-2.0
"""The instances of this server: which there are, which run, and the way to every verb on them.

The verbs themselves stand in one module each; what they share is here: the registry, the locks,
the watch over running containers, and what other parts of the daemon ask.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.profiles import Devices, Profile
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest, NotFound, attempting
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.lxd.host.idmap import Idmap, Range
from nova_lxd.lxd.host.liblxc import hooks
from nova_lxd.lxd.host.liblxc.running import Running
from nova_lxd.lxd.images.publish import InstanceTree
from nova_lxd.lxd.instances import (
    backup,
    boot,
    idmaps,
    nodewatch,
    profilesync,
    recover,
    schedule,
    stop,
    users,
    volumes,
)
from nova_lxd.lxd.instances.context import Context
from nova_lxd.lxd.instances.expand import Expanded, Expander
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.locks import ActionLocks
from nova_lxd.lxd.network.service import Networks
from nova_lxd.lxd.operations import Operations
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.serverconfig import ServerConfig
from nova_lxd.lxd.storage.service import Storage
from nova_lxd.lxd.warnings import Warnings

LOG = logging.getLogger(__name__)
_PUBLISH_PATIENCE = 30.0
_SETTLE_PATIENCE = 30.0


class Instances:
    """The registry of instances, and what acts on them; safe to call from many threads."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        paths: Paths,
        db: Database,
        events: Events,
        operations: Operations,
        storage: Storage,
        networks: Networks,
        images: Any,
        warnings: Warnings,
        config: ServerConfig,
    ) -> None:
        self.ctx = Context(
            paths, loop, db, events, operations, config, warnings, storage, networks, images
        )
        self.locks = ActionLocks()
        #: Held while an isolated id range is chosen and recorded.
        self.isolated_lock = threading.RLock()
        #: The processors that running instances with limits.cpu are on, by id.
        self.cpus: dict[int, str] = {}
        self.cpus_lock = threading.Lock()
        self._by_id: dict[int, Instance] = {}
        self._by_name: dict[tuple[str, str], Instance] = {}
        self._registry = threading.RLock()
        self._listing: tuple[int, list[tuple[InstanceRecord, Expanded]]] | None = None
        self._scheduler = schedule.Scheduler(self)
        self.nodes = nodewatch.NodeWatch(self)

    # -- life of the daemon -------------------------------------------------------------------

    def start(self) -> None:
        """Start the helper, adopt what runs and finish or undo what was half-made."""
        # Two process descriptors for every running container, and the clients' connections.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.ctx.liblxc.open()
        self.ctx.grace.open()
        recover.recover(self)
        backup.sweep(self)
        boot.tell_missing_controllers(self)
        self._scheduler.start()

    def autostart(self) -> None:
        """Start the instances that shall run, in their order; failures become warnings."""
        boot.autostart(self)

    def shutdown_all(self) -> None:
        """Stop every instance in the order of ``boot.stop.priority``; they are started again."""
        boot.shutdown_all(self)

    def take_snapshot(self, inst: Instance) -> None:
        """Take a scheduled snapshot now; a failure is logged."""
        schedule.take(self, inst)

    def close(self) -> None:
        """Let go of everything; containers go on."""
        self._scheduler.close()
        self.nodes.close()
        for inst in self.all():
            if inst.running is not None:
                self._unwatch(inst.running)
        self.ctx.executor.shutdown(wait=False, cancel_futures=True)
        self.ctx.liblxc.close()
        self.ctx.grace.close()

    # -- the registry -------------------------------------------------------------------------

    def all(self, project: str | None = None) -> list[Instance]:
        """The instances of one project or of all."""
        with self._registry:
            found = list(self._by_id.values())
        return [inst for inst in found if project is None or inst.project == project]

    def get(self, project: str, name: str) -> Instance:
        """:raises NotFound: there is no such instance."""
        inst = self._by_name.get((project, name))
        if inst is None:
            raise NotFound("Instance not found")
        return inst

    def by_id(self, instance_id: int) -> Instance | None:
        return self._by_id.get(instance_id)

    def adopt_record(self, record: InstanceRecord) -> Instance:
        """Take a recorded instance into the registry."""
        inst = Instance.of(record)
        with self._registry:
            self._by_id[inst.id] = inst
            self._by_name[(inst.project, inst.name)] = inst
        return inst

    def drop(self, inst: Instance) -> None:
        """Forget a deleted instance."""
        with self._registry:
            self._by_id.pop(inst.id, None)
            self._by_name.pop((inst.project, inst.name), None)

    def rekey(self, inst: Instance, project: str, name: str) -> None:
        """Give an instance another name or project in the registry."""
        with self._registry:
            self._by_name.pop((inst.project, inst.name), None)
            inst.project, inst.name = project, name
            self._by_name[(project, name)] = inst

    @contextmanager
    def hold(self, inst: Instance, action: str, patience: float = 0.0) -> Iterator[None]:
        """Do ``action`` on an instance, alone.

        :raises Conflict: another action holds it.
        :raises NotFound: it was deleted meanwhile.
        """
        with self.locks.hold(inst.key, action, str(inst), patience):
            if inst.id not in self._by_id:
                raise NotFound("Instance not found")
            with attempting(f"Action {action!r} on {inst}"):
                yield

    # -- configuration ------------------------------------------------------------------------

    def record(self, inst: Instance) -> InstanceRecord:
        """What is stored of an instance.

        :raises NotFound: it was deleted.
        """
        record = db_instances.get_by_id(self.ctx.db, inst.id)
        if record is None:
            raise NotFound("Instance not found")
        return record

    def snapshot(self, inst: Instance, name: str) -> SnapshotRecord:
        """:raises NotFound: the instance has no such snapshot."""
        found = db_snapshots.get(self.ctx.db, inst.id, name)
        if found is None or found.intent == "create":
            raise NotFound("Instance snapshot not found")
        return found

    def expander(self) -> Expander:
        """The profiles as they are now."""
        return Expander(self.ctx.db)

    def expanded(self, record: InstanceRecord) -> Expanded:
        """An instance's configuration with its profiles'."""
        return self.expander().expand(
            record.project, record.profiles, record.config, record.devices
        )

    def listing(self) -> list[tuple[Instance, InstanceRecord, Expanded]]:
        """Every instance with its record and expanded configuration, by project and name.

        Kept until the database changes; callers leave it as it is.
        """
        generation = self.ctx.db.generation
        kept = self._listing
        if kept is None or kept[0] != generation:
            expander = self.expander()
            found = [
                (r, expander.expand(r.project, r.profiles, r.config, r.devices))
                for r in db_instances.get_all(self.ctx.db)
            ]
            kept = self._listing = (generation, found)
        entries = ((self._by_id.get(r.id), r, e) for r, e in kept[1])
        return [(inst, r, e) for inst, r, e in entries if inst is not None]

    def expand_ids(self, ids: Iterable[int]) -> list[tuple[InstanceRecord, Expanded]]:
        """Records and expanded configurations of several instances."""
        wanted = set(ids)
        return [(r, e) for _, r, e in self.listing() if r.id in wanted] if wanted else []

    def idmap_of(self, config: Mapping[str, str]) -> Idmap:
        """The map an instance would get, an isolated one from what is recorded."""
        text = config.get("volatile.idmap.next")
        if text:
            return Idmap.from_json(text)
        shared = {k: v for k, v in config.items() if k != "security.idmap.isolated"}
        return idmaps.choose(self.ctx.ids, shared, [])[0]

    def isolated_ranges(self, expanded: Expanded, instance_id: int) -> list[Range]:
        """The id ranges of the other isolated instances; empty when this one needs none."""
        if not idmaps.isolated(expanded.config):
            return []
        everyone = self.expand_ids(self._by_id)
        return idmaps.taken(((r, e.config) for r, e in everyone), instance_id)

    def stop_changes(self, record: InstanceRecord) -> dict[str, str | None]:
        """Volatile keys that go when an instance has ended."""
        return {"volatile.idmap.current": None} if record.config else {}

    # -- running containers -------------------------------------------------------------------

    def watch(self, inst: Instance, running: Running) -> None:
        """Take note that an instance runs, and be told when its monitor ends."""
        inst.ended.clear()
        inst.claimed = False
        inst.running = running
        self.ctx.loop.call_soon_threadsafe(self._add_reader, inst, running)

    def _add_reader(self, inst: Instance, running: Running) -> None:
        if running.monitor_pidfd >= 0:
            self.ctx.loop.add_reader(running.monitor_pidfd, self._on_end, inst, running)

    def _on_end(self, inst: Instance, running: Running) -> None:
        self.ctx.loop.remove_reader(running.monitor_pidfd)
        if not inst.claimed:
            self.ended(inst, running)

    def ended(self, inst: Instance, running: Running) -> None:
        """Have a thread clean up after a container that ended by itself."""
        self.ctx.executor.submit(self._after_end, inst, running)

    def _after_end(self, inst: Instance, running: Running) -> None:
        try:
            stop.after_end(self, inst, running)
        except Exception:
            LOG.exception("Cleaning up after the end of %s failed", inst)

    def settle(self, inst: Instance) -> None:
        """Wait until an instance that has just ended by itself is cleaned up."""
        running = inst.running
        if running is not None and running.monitor_pidfd >= 0 and running.wait(0):
            inst.ended.wait(_SETTLE_PATIENCE)

    def forget_running(self, inst: Instance) -> None:
        """Take note that an instance has ended and was cleaned up."""
        self.nodes.forget(inst)
        running, inst.running = inst.running, None
        inst.frozen, inst.groups = False, None
        if running is not None:
            self._unwatch(running)
        inst.ended.set()

    def _unwatch(self, running: Running) -> None:
        def close() -> None:
            if running.monitor_pidfd >= 0:
                self.ctx.loop.remove_reader(running.monitor_pidfd)
            running.close()

        self.ctx.loop.call_soon_threadsafe(close)

    def target(self, inst: Instance) -> Literal["stop", "reboot"]:
        """How a container ended."""
        return hooks.take_target(self.ctx.paths.instance_run(inst.project, inst.name))

    def cgroup(self, inst: Instance) -> Cgroup | None:
        """The control groups of a running instance, None when it is stopped."""
        running = inst.running
        if running is None:
            return None
        if inst.groups is None:
            inst.groups = Cgroup.of(running.init, inst.stored_name)
        return inst.groups

    def thaw_processes(self, inst: Instance) -> None:
        """Let a frozen instance run on."""
        group = self.cgroup(inst)
        if group is not None:
            group.thaw()
        inst.frozen = False

    # -- told to the world ---------------------------------------------------------------------

    def announce(
        self,
        action: str,
        inst: Instance,
        *,
        snapshot: str = "",
        context: Mapping[str, Any] | None = None,
        requestor: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish a lifecycle event of an instance or snapshot."""
        url = f"/1.0/instances/{inst.name}" + (f"/snapshots/{snapshot}" if snapshot else "")
        self.ctx.events.lifecycle(
            action,
            with_project(url, inst.project),
            inst.project,
            context=context,
            requestor=requestor,
        )

    @contextmanager
    def image_tree(self, project: str, name: str, snapshot: str | None) -> Iterator[InstanceTree]:
        """The tree of a stopped instance or of a snapshot, held still for the block.

        :raises NotFound: there is none.
        :raises BadRequest: the instance runs.
        """
        inst = self.get(project, name)
        with self.hold(inst, "publish", patience=_PUBLISH_PATIENCE):
            record = self.record(inst)
            volume = volumes.of_record(record)
            if snapshot:
                self.snapshot(inst, snapshot)
                volume = volume.at(snapshot)
            elif inst.is_running:
                raise BadRequest("Cannot publish a running instance")
            with self.ctx.storage.get(record.pool).mounted(volume) as path:
                yield InstanceTree(path, record.architecture)

    # -- asked by profiles, storage and networks ------------------------------------------------

    def profile_users(self, project: str | None) -> dict[tuple[str, str], list[str]]:
        """Instance URLs by (profile's project, profile name)."""
        return users.of_profiles(self, project)

    def check_profile(self, project: str, config: Mapping[str, str], devices: Devices) -> None:
        """:raises BadRequest: a key, value or device is invalid in a profile."""
        profilesync.check(self, project, config, devices)

    def profile_changed(self, project: str, old: Profile, new: Profile) -> None:
        """Apply a changed profile to the instances that use it."""
        profilesync.changed(self, project, old, new)

    def profile_renamed(self, project: str, old: str, new: str) -> None:
        """Let instances follow a profile's new name."""
        profilesync.renamed(self, project, old, new)

    def disk_users(self) -> dict[tuple[str, str, str], list[str]]:
        """URLs of instances and profiles by (pool, project, custom volume)."""
        return users.of_volumes(self)

    def network_users(self) -> dict[str, list[str]]:
        """URLs of instances and profiles by network."""
        return users.of_networks(self)

    def network_changed(self, name: str) -> None:
        """Let running instances' nics follow a network that was changed or restarted."""
        users.network_changed(self, name)
