# SPDX-License-Identifier: Apache-2.0
"""Device nodes that come and go on the host while instances run (LXD: unix_device_hotplug).

Devices of type unix-char and unix-block with ``required=false`` are given to a running instance
when their node appears and taken back when it goes.  Events only say when to look: what is there
is compared with what the instance has, so that none can be missed for good.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.devices.unix import UnixDevice, followed
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.host.inotify import Inotify
from nova_lxd.lxd.instances import deviceset, hotplug
from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
_PATIENCE = 60.0
Devices = Mapping[str, Mapping[str, str]]


class NodeWatch:
    """Follows the nodes that running instances wait for; safe to call from many threads."""

    def __init__(self, svc: Instances) -> None:
        self._svc = svc
        self._inotify: Inotify | None = None
        self._lock = threading.Lock()
        #: Sources by instance.
        self._sources: dict[int, frozenset[Path]] = {}
        #: Watched directories and their watches' numbers.
        self._watches: dict[Path, int] = {}
        #: Instances to look at when a name comes to or goes from a watched directory.
        self._concerned: dict[tuple[int, str], set[int]] = {}
        #: Instances that a thread is about to look at.
        self._due: set[int] = set()

    def close(self) -> None:
        """Follow nothing any more."""
        with self._lock:
            inotify, self._inotify = self._inotify, None
            self._sources.clear()
        if inotify is not None:
            self._svc.ctx.loop.remove_reader(inotify.fileno())
            inotify.close()

    def follow(self, inst: Instance, devices: Devices) -> None:
        """Follow what the running instance's devices wait for, and nothing else of it."""
        found = (followed(config) for config in devices.values())
        sources = frozenset(source for source in found if source is not None)
        with self._lock:
            if not sources and inst.id not in self._sources:
                return
            self._sources[inst.id] = sources
            self._rewatch()
        self._look_at(inst.id)

    def forget(self, inst: Instance) -> None:
        """The instance has ended."""
        with self._lock:
            if self._sources.pop(inst.id, None):
                self._rewatch()

    def _rewatch(self) -> None:
        """Watch, for each source, the directory in which the next step to it comes or goes."""
        if self._inotify is None:
            self._inotify = Inotify()
            self._svc.ctx.loop.call_soon_threadsafe(self._add_reader, self._inotify)
        concerned: dict[tuple[int, str], set[int]] = {}
        watches: dict[Path, int] = {}
        for instance_id, sources in self._sources.items():
            for source in sources:
                directory, name = self._watch(self._inotify, source, watches)
                concerned.setdefault((watches[directory], name), set()).add(instance_id)
        for directory in self._watches.keys() - watches.keys():
            if self._watches[directory] not in watches.values():
                self._inotify.unwatch(self._watches[directory])
        self._watches, self._concerned = watches, concerned

    def _watch(
        self, inotify: Inotify, source: Path, watches: dict[Path, int]
    ) -> tuple[Path, str]:
        """Watch the nearest directory above the source; it and the name to wait for in it."""
        while True:
            directory, name = _nearest(source)
            try:
                watches[directory] = inotify.watch(str(directory))
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went just now
            if _nearest(source) == (directory, name):
                return directory, name

    def _add_reader(self, inotify: Inotify) -> None:
        if inotify is self._inotify:
            self._svc.ctx.loop.add_reader(inotify.fileno(), self._on_change, inotify)

    def _on_change(self, inotify: Inotify) -> None:
        due: set[int] = set()
        with self._lock:
            for change in inotify.changes():
                if change.is_lost:
                    due.update(self._sources)
                elif change.name:
                    due |= self._concerned.get((change.watch, change.name), set())
                else:  # the directory itself was moved or removed
                    for (watch, _name), ids in self._concerned.items():
                        due |= ids if watch == change.watch else set()
                    self._watches = {d: w for d, w in self._watches.items() if w != change.watch}
                    inotify.unwatch(change.watch)
        for instance_id in due:
            self._look_at(instance_id)

    def _look_at(self, instance_id: int) -> None:
        with self._lock:
            if instance_id in self._due:
                return
            self._due.add(instance_id)
        self._svc.ctx.executor.submit(self._settle, instance_id)

    def _settle(self, instance_id: int) -> None:
        with self._lock:
            self._due.discard(instance_id)
            if instance_id not in self._sources:
                return
            self._rewatch()
        inst = self._svc.by_id(instance_id)
        if inst is None:
            return
        try:
            with self._svc.hold(inst, "update", patience=_PATIENCE):
                settle(self._svc, inst)
        except (LXDError, OSError) as exc:
            LOG.error("Bringing the device nodes of %s in line failed: %s", inst, exc)


def _nearest(source: Path) -> tuple[Path, str]:
    """The nearest directory above ``source`` that is there, and the next name on the way."""
    name, directory = source.name, source.parent
    while not os.path.isdir(directory):
        name, directory = directory.name, directory.parent
    return directory, name


def settle(svc: Instances, inst: Instance) -> None:
    """Give a running instance the nodes that came, take those that went.

    The caller holds the instance's lock.

    One that fails is logged and does not keep the others from it.
    """
    if inst.running is None:
        return
    record = svc.record(inst)
    expanded = svc.expanded(record)
    seen = deviceset.view(svc.ctx, record, expanded, inst.idmap, inst.running.init)
    for name, config in expanded.devices.items():
        if followed(config) is None:
            continue
        device = deviceset.build(svc.ctx, name, config, seen)
        assert isinstance(device, UnixDevice)
        try:
            _settle_one(svc, inst, device)
        except (LXDError, OSError) as exc:
            LOG.error("Bringing device %s of %s in line failed: %s", name, inst, exc)


def _settle_one(svc: Instances, inst: Instance, device: UnixDevice) -> None:
    if device.is_given():
        return
    changes = deviceset.keys(device.name, hotplug.unplug(svc, inst, device))
    with ExitStack() as undo:
        run = hotplug.plug(svc, inst, device, undo)
        changes.update(deviceset.keys(device.name, run.volatile))
        db_instances.set_config(svc.ctx.db, inst.id, changes)
        undo.pop_all()
    LOG.info("Device %s of %s %s", device.name, inst, "came" if run.mounts else "went")
