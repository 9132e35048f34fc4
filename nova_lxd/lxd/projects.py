# SPDX-License-Identifier: Apache-2.0
"""Projects: spaces of names for instances, images, profiles, volumes and networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.projects import Project
from nova_lxd.lxd.errors import BadRequest, Conflict, Forbidden, NotFound
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.paths import DEFAULT_PROJECT
from nova_lxd.lxd.schema.configkeys import given
from nova_lxd.lxd.schema.projectkeys import DEFAULT_FEATURES, FEATURES, PROJECT_KEYS

# An underscore would make stored names (PROJECT_NAME) ambiguous, a star is LXD's wildcard.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}\Z")


def check_name(name: str) -> None:
    """:raises BadRequest: no name for a project."""
    if not _NAME.match(name) or name in (".", "..", "*"):
        raise BadRequest(
            f"Invalid project name {name[:64]!r}: use up to 63 letters, digits, dots and dashes"
        )


class Projects:
    """The projects of this server."""

    def __init__(self, db: Database, events: Events) -> None:
        self._db = db
        self._events = events

    def all(self) -> list[Project]:
        return db_projects.get_all(self._db)

    def get(self, name: str) -> Project:
        """:raises NotFound: there is no such project."""
        project = db_projects.get(self._db, name)
        if project is None:
            raise NotFound(f"Project {name!r} not found")
        return project

    def used_by(self) -> dict[str, list[str]]:
        """URLs of what each project holds."""
        return db_projects.used_by(self._db)

    def _in_use(self, name: str) -> bool:
        """Whether anything but its own default profile is in the project."""
        url = db_projects.with_project("/1.0/profiles/default", name)
        return any(entry != url for entry in self.used_by().get(name, []))

    def create(
        self,
        name: str,
        description: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
    ) -> None:
        """:raises BadRequest: bad name or config.  :raises Conflict: the name is taken."""
        check_name(name)
        full = {**DEFAULT_FEATURES, **given(config)}
        PROJECT_KEYS.validate(full)
        if db_projects.get(self._db, name):
            raise Conflict(f"Project {name!r} already exists")
        db_projects.create(self._db, name, description, full)
        self._events.lifecycle(
            "project-created", f"/1.0/projects/{name}", name, requestor=requestor
        )

    def update(
        self,
        name: str,
        description: str,
        config: Mapping[str, str],
        requestor: Mapping[str, Any],
    ) -> None:
        """:raises BadRequest: bad config, or features changed on a project that is in use."""
        current = self.get(name)
        values = given(config)
        PROJECT_KEYS.validate(values)
        changed = [k for k in FEATURES if values.get(k) != current.config.get(k)]
        if changed and name == DEFAULT_PROJECT:
            raise BadRequest("You can't change the features of the default project")
        if changed and self._in_use(name):
            raise BadRequest("Features can only be changed on empty projects")
        db_projects.update(self._db, name, description, values)
        self._events.lifecycle(
            "project-updated", f"/1.0/projects/{name}", name, requestor=requestor
        )

    def check_rename(self, name: str, new: str) -> None:
        """:raises Forbidden: it is the default one.  :raises BadRequest: it is in use."""
        self.get(name)
        if name == DEFAULT_PROJECT:
            raise Forbidden("The 'default' project cannot be renamed")
        check_name(new)
        if db_projects.get(self._db, new):
            raise Conflict(f"A project named {new!r} already exists")
        if self._in_use(name):
            raise BadRequest("Only empty projects can be renamed")

    def rename(self, name: str, new: str, requestor: Mapping[str, Any]) -> None:
        """Give a project another name; raises as :meth:`check_rename`."""
        self.check_rename(name, new)
        db_projects.rename(self._db, name, new)
        self._events.lifecycle(
            "project-renamed",
            f"/1.0/projects/{new}",
            new,
            context={"old_name": name},
            requestor=requestor,
        )

    def delete(self, name: str, requestor: Mapping[str, Any]) -> None:
        """:raises Forbidden: it is the default one.  :raises BadRequest: it is in use."""
        self.get(name)
        if name == DEFAULT_PROJECT:
            raise Forbidden("The 'default' project cannot be deleted")
        if self._in_use(name):
            raise BadRequest("Only empty projects can be removed")
        db_projects.delete(self._db, name)
        self._events.lifecycle(
            "project-deleted", f"/1.0/projects/{name}", name, requestor=requestor
        )
