# SPDX-License-Identifier: Apache-2.0
"""Profiles: named sets of config keys and devices that instances inherit in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nova_lxd.lxd.db import profiles as db_profiles
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.profiles import Devices, Profile
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import BadRequest, Conflict, Forbidden, NotFound
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.schema.configkeys import given


class ProfileUsers(Protocol):
    """What profiles need of instances: who uses one, whether it is valid, and to apply it."""

    def profile_users(self, project: str | None) -> dict[tuple[str, str], list[str]]:
        """Instance URLs by (profile's project, profile name)."""

    def check_profile(self, project: str, config: Mapping[str, str], devices: Devices) -> None:
        """:raises BadRequest: a key, value or device is invalid in a profile."""

    def profile_changed(self, project: str, old: Profile, new: Profile) -> None:
        """Apply a changed profile to the running instances that use it."""

    def profile_renamed(self, project: str, old: str, new: str) -> None:
        """Let instances follow a profile's new name."""


def check_name(name: str) -> None:
    """:raises BadRequest: no name for a profile."""
    if not name or len(name) > 63 or name in (".", "..") or any(c in name for c in "/\0 \t\n'\""):
        raise BadRequest(
            f"Invalid profile name {name[:64]!r}: use up to 63 characters without slash or space"
        )


def _given(config: Mapping[str, str], devices: Devices) -> tuple[dict[str, str], Devices]:
    """Config and devices without the keys that a client unsets."""
    return given(config), {name: given(device) for name, device in devices.items()}


class Profiles:
    """The profiles of all projects."""

    def __init__(self, db: Database, events: Events, users: Callable[[], ProfileUsers]) -> None:
        self._db = db
        self._events = events
        self._users = users

    def all(self, project: str | None) -> list[Profile]:
        return db_profiles.get_all(self._db, project)

    def get(self, project: str, name: str) -> Profile:
        """:raises NotFound: the project has no such profile."""
        profile = db_profiles.get(self._db, project, name)
        if profile is None:
            raise NotFound("Profile not found")
        return profile

    def used_by(self, project: str | None = None) -> dict[tuple[str, str], list[str]]:
        """Instance URLs by (project, profile)."""
        return self._users().profile_users(project)

    def create(
        self,
        project: str,
        name: str,
        description: str,
        config: Mapping[str, str],
        devices: Devices,
        requestor: Mapping[str, Any],
    ) -> None:
        """:raises BadRequest: bad name, config or device.  :raises Conflict: the name is taken."""
        check_name(name)
        config, devices = _given(config, devices)
        self._users().check_profile(project, config, devices)
        if db_profiles.get(self._db, project, name):
            raise Conflict(f'Error inserting "{name}" into database: The profile already exists')
        db_profiles.create(self._db, project, name, description, config, devices)
        self._announce("profile-created", project, name, requestor)

    def update(
        self,
        project: str,
        name: str,
        description: str,
        config: Mapping[str, str],
        devices: Devices,
        requestor: Mapping[str, Any],
    ) -> None:
        """Store the profile, then apply it to running instances.

        :raises BadRequest: bad config or device, or an instance cannot take it.
        """
        old = self.get(project, name)
        config, devices = _given(config, devices)
        self._users().check_profile(project, config, devices)
        new = Profile(project, name, description, config, devices)
        db_profiles.update(self._db, project, name, description, config, devices)
        self._users().profile_changed(project, old, new)
        self._announce("profile-updated", project, name, requestor)

    def rename(self, project: str, name: str, new: str, requestor: Mapping[str, Any]) -> None:
        """:raises Forbidden: the default profile.  :raises Conflict: the name is taken."""
        self.get(project, name)
        if name == "default":
            raise Forbidden('The "default" profile cannot be renamed')
        check_name(new)
        if db_profiles.get(self._db, project, new):
            raise Conflict(f'Name "{new}" already in use')
        with self._db.write():
            db_profiles.rename(self._db, project, name, new)
            self._users().profile_renamed(project, name, new)
        self._announce("profile-renamed", project, new, requestor, {"old_name": name})

    def delete(self, project: str, name: str, requestor: Mapping[str, Any]) -> None:
        """:raises Forbidden: the default profile.  :raises BadRequest: it is in use."""
        self.get(project, name)
        if name == "default":
            raise Forbidden('The "default" profile cannot be deleted')
        if self.used_by(None).get((project, name)):
            raise BadRequest("Profile is currently in use")
        db_profiles.delete(self._db, project, name)
        self._announce("profile-deleted", project, name, requestor)

    def _announce(
        self,
        action: str,
        project: str,
        name: str,
        requestor: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
    ) -> None:
        url = with_project(f"/1.0/profiles/{name}", project)
        self._events.lifecycle(action, url, project, context=context, requestor=requestor)
