# SPDX-License-Identifier: Apache-2.0
"""Managed networks of this server: the database, the bridges on the host, and who uses them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

from nova_lxd.lxd.db import networks as db_networks
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.networks import NetworkRow
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import BadRequest, Conflict, LXDError, NotFound, attempting
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.network.bridge import Bridge
from nova_lxd.lxd.network.interface import Network
from nova_lxd.lxd.paths import DEFAULT_PROJECT, Paths
from nova_lxd.lxd.schema.configkeys import given
from nova_lxd.lxd.warnings import Warnings

LOG = logging.getLogger(__name__)
TYPES: dict[str, type[Bridge]] = {"bridge": Bridge}
_WARNING = "Network unavailable"
_PENDING = "Pending"
# Held while a network chooses its subnets, so that two new ones do not choose the same.
_SUBNETS = ("subnets",)


class NetworkUsers(Protocol):
    """What networks need to know of profiles and instances."""

    def network_users(self) -> dict[str, list[str]]:
        """URLs of the profiles and instances whose nics use each network, by network name."""

    def network_changed(self, name: str) -> None:
        """Let running instances' nics follow a network that was changed or restarted."""


class Networks:
    """The managed networks; networks live in the default project unless it has its own."""

    def __init__(self, db: Database, paths: Paths, events: Events, warnings: Warnings) -> None:
        self._db = db
        self._paths = paths
        self._events = events
        self._warnings = warnings
        self._locks = KeyedLocks()
        self._users: NetworkUsers | None = None

    def bind_users(self, users: NetworkUsers) -> None:
        """Wire the instances in; they are constructed after the networks."""
        self._users = users

    def start(self) -> None:
        """Bring up every network; one that fails becomes a warning, not a failed start-up."""
        rows = self.all()
        # What a killed daemon was making goes first: it may hold the subnet of one that stays.
        for row in rows:
            if row.status == _PENDING:
                self._settle(row, self._discard)
        for row in rows:
            if row.status != _PENDING:
                self._settle(row, lambda row: self._open(row).start())

    def _discard(self, row: NetworkRow) -> None:
        self._open(row).delete()
        db_networks.delete(self._db, row.project, row.name)

    def _settle(self, row: NetworkRow, act: Callable[[NetworkRow], None]) -> None:
        url = f"/1.0/networks/{row.name}"
        try:
            act(row)
        except (LXDError, OSError) as exc:
            LOG.error("Starting network %s failed: %s", row.name, exc)
            self._warnings.warn(_WARNING, str(exc), entity_url=url, severity="high")
        else:
            self._warnings.resolve(_WARNING, entity_url=url)

    def stop(self) -> None:
        """Take every network off the host; no instance runs any more."""
        for row in self.all():
            try:
                self._open(row).stop()
            except (LXDError, OSError) as exc:
                LOG.error("Stopping network %s failed: %s", row.name, exc)

    def all(self, project: str | None = None) -> list[NetworkRow]:
        return db_networks.get_all(self._db, project)

    def row(self, project: str, name: str) -> NetworkRow:
        """:raises NotFound: there is no such managed network."""
        row = db_networks.get(self._db, project, name)
        if row is None:
            raise NotFound("Network not found")
        return row

    def get(self, name: str, project: str = DEFAULT_PROJECT) -> Network:
        """The network as the devices use it.

        :raises NotFound: there is no such managed network.
        """
        return self._open(self.row(project, name))

    def find(self, project: str, name: str) -> Network | None:
        """The managed network that instances of the project see by this name."""
        owner = db_projects.get(self._db, project)
        own = owner is not None and owner.feature("networks")
        row = db_networks.get(self._db, project if own else DEFAULT_PROJECT, name)
        return self._open(row) if row else None

    def used_by(self) -> dict[str, list[str]]:
        """Profile and instance URLs by network name."""
        return self._users.network_users() if self._users else {}

    def _open(self, row: NetworkRow) -> Network:
        return TYPES[row.type](self._paths, row.name, row.config)

    def create(
        self,
        project: str,
        name: str,
        kind: str,
        description: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
    ) -> None:
        """Make a network and bring it up.

        :raises BadRequest: bad name, type or config.  :raises Conflict: the name is taken.
        """
        network_class = TYPES.get(kind or "bridge")
        if network_class is None:
            raise BadRequest(f"Unknown network type {kind!r}: this server has {', '.join(TYPES)}")
        with (
            attempting(f"Creating network {name!r}"),
            self._locks.hold(name),
            ExitStack() as undo,
        ):
            if db_networks.get(self._db, project, name):
                raise BadRequest("The network already exists")
            row = self._reserve(project, name, network_class, description, config)
            undo.callback(db_networks.delete, self._db, project, name)
            network = self._open(row)
            network.create()
            undo.callback(network.delete)
            network.start()
            db_networks.update(self._db, project, name, description, row.config, "Created")
            undo.pop_all()
        self._announce("network-created", project, name, requestor)

    def _reserve(
        self,
        project: str,
        name: str,
        network_class: type[Bridge],
        description: str,
        config: Mapping[str, str],
    ) -> NetworkRow:
        """Check a new network's configuration, choose its subnets and record it as pending."""
        with self._locks.hold(_SUBNETS):
            filled = network_class.fill_config(given(config))
            network: Network = network_class(self._paths, name, filled)
            network.validate()
            taken = [
                row.config[key]
                for row in self.all()
                for key in ("ipv4.address", "ipv6.address")
                if "/" in row.config.get(key, "")
            ]
            filled = network.choose_addresses(taken)
            row = NetworkRow(project, name, network_class.kind, description, filled, _PENDING)
            db_networks.create(self._db, row)
            return row

    def update(
        self,
        project: str,
        name: str,
        description: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
    ) -> None:
        """Change a network's configuration and apply it.

        :raises BadRequest: bad config.  :raises NotFound: no such network.
        """
        with (
            attempting(f"Changing network {name!r}"),
            self._locks.hold(name),
            ExitStack() as undo,
        ):
            row = self.row(project, name)
            values = given(config)
            checked: Network = TYPES[row.type](self._paths, name, values)
            checked.validate()
            values = checked.choose_addresses()
            self._open(row).update(values)
            undo.callback(self._take_back, row, values)
            db_networks.update(self._db, project, name, description, values, "Created")
            undo.pop_all()
        if self._users:
            self._users.network_changed(name)
        self._announce("network-updated", project, name, requestor)

    def _take_back(self, row: NetworkRow, tried: Mapping[str, str]) -> None:
        """Give a network its recorded configuration back: the new one could not be recorded."""
        try:
            self._open(replace(row, config=dict(tried))).update(row.config)
        except (LXDError, OSError):
            LOG.exception("Taking back the change of network %s failed", row.name)

    def rename(self, project: str, name: str, new: str, requestor: Mapping[str, Any]) -> None:
        """:raises BadRequest: it is in use.  :raises Conflict: the name is taken."""
        with (
            attempting(f"Renaming network {name!r}"),
            ExitStack() as held,
            ExitStack() as undo,
        ):
            for each in sorted({name, new}):
                held.enter_context(self._locks.hold(each))
            row = self.row(project, name)
            if self.used_by().get(name):
                raise BadRequest("Network is currently in use")
            if db_networks.get(self._db, project, new):
                raise Conflict(f"Network {new!r} already exists")
            renamed: Network = TYPES[row.type](self._paths, new, row.config)
            renamed.validate()
            # The next daemon removes what a kill leaves under the new name.
            db_networks.create(self._db, replace(row, name=new, status=_PENDING))
            undo.callback(db_networks.delete, self._db, project, new)
            old = self._open(row)
            undo.callback(old.start)
            old.delete()
            renamed.create()
            undo.callback(renamed.delete)
            renamed.start()
            with self._db.write():
                db_networks.delete(self._db, project, new)
                db_networks.rename(self._db, project, name, new)
            undo.pop_all()
        self._announce("network-renamed", project, new, requestor, {"old_name": name})

    def delete(self, project: str, name: str, requestor: Mapping[str, Any]) -> None:
        """:raises BadRequest: it is in use.  :raises NotFound: no such network."""
        with (
            attempting(f"Deleting network {name!r}"),
            self._locks.hold(name),
            ExitStack() as undo,
        ):
            row = self.row(project, name)
            if self.used_by().get(name):
                raise BadRequest("The network is currently in use")
            network = self._open(row)
            # The next daemon finishes what a kill leaves.
            record = (self._db, project, name, row.description, row.config)
            db_networks.update(*record, _PENDING)
            undo.callback(network.start)
            undo.callback(db_networks.update, *record, row.status)
            network.delete()
            db_networks.delete(self._db, project, name)
            undo.pop_all()
        self._announce("network-deleted", project, name, requestor)

    def _announce(
        self,
        action: str,
        project: str,
        name: str,
        requestor: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
    ) -> None:
        url = with_project(f"/1.0/networks/{name}", project)
        self._events.lifecycle(action, url, project, context=context, requestor=requestor)
