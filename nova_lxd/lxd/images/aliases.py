# SPDX-License-Identifier: Apache-2.0
"""Aliases: names for images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nova_lxd.lxd.db import images as db_images
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.images import Alias
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import BadRequest, Conflict, NotFound
from nova_lxd.lxd.events import Events

_MAX_NAME = 255
Requestor = Mapping[str, Any] | None


def check_alias_name(name: str) -> None:
    """:raises BadRequest: no name for an alias."""
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise BadRequest(
            f"Invalid alias name {name[:64]!r}: use 1 to {_MAX_NAME} printable characters"
        )


def alias_url(project: str, name: str) -> str:
    """The alias's URL as lifecycle events tell it."""
    return with_project(f"/1.0/images/aliases/{name}", project)


class Aliases:
    """The aliases of every project."""

    def __init__(self, db: Database, events: Events) -> None:
        self._db = db
        self._events = events

    def all(self, project: str) -> list[Alias]:
        """The project's aliases, by name."""
        return db_images.get_aliases(self._db, project)

    def get(self, project: str, name: str, *, public_only: bool = False) -> Alias:
        """:raises NotFound: there is none (or none of a public image)."""
        alias = db_images.get_alias(self._db, project, name)
        if alias is None or (public_only and not alias.public):
            raise NotFound("Image alias not found")
        return alias

    def require_free(self, project: str, name: str) -> None:
        """:raises BadRequest: no name for an alias.  :raises Conflict: the name is taken."""
        check_alias_name(name)
        if db_images.get_alias(self._db, project, name):
            raise Conflict(f'Alias "{name}" already exists')

    def create(
        self, project: str, name: str, fingerprint: str, description: str, requestor: Requestor
    ) -> None:
        """Name an image that exists.

        :raises Conflict: the name is taken.
        """
        with self._db.write():
            self.require_free(project, name)
            db_images.put_alias(self._db, project, name, fingerprint, description)
        self._tell("created", project, name, {"target": fingerprint}, requestor)

    def update(
        self, project: str, name: str, fingerprint: str, description: str, requestor: Requestor
    ) -> None:
        """Let an alias name another image.

        :raises NotFound: there is no such alias.
        """
        with self._db.write():
            old = self.get(project, name)
            db_images.put_alias(self._db, project, name, fingerprint, description)
        self._tell("updated", project, name, {"target": old.fingerprint}, requestor)

    def rename(self, project: str, name: str, new: str, requestor: Requestor) -> None:
        """:raises NotFound: there is no such alias.  :raises Conflict: the new name is taken."""
        check_alias_name(new)
        with self._db.write():
            if db_images.get_alias(self._db, project, new):
                raise Conflict(f'Alias "{new}" already exists')
            self.get(project, name)
            db_images.rename_alias(self._db, project, name, new)
        self._tell("renamed", project, new, {"old_name": name}, requestor)

    def delete(self, project: str, name: str, requestor: Requestor) -> None:
        """:raises NotFound: there is no such alias."""
        with self._db.write():
            self.get(project, name)
            db_images.delete_alias(self._db, project, name)
        self._tell("deleted", project, name, None, requestor)

    def _tell(
        self,
        verb: str,
        project: str,
        name: str,
        context: Mapping[str, Any] | None,
        requestor: Requestor,
    ) -> None:
        self._events.lifecycle(
            f"image-alias-{verb}",
            alias_url(project, name),
            project,
            context=context,
            requestor=requestor,
        )
