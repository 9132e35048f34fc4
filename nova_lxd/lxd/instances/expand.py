# SPDX-License-Identifier: Apache-2.0
"""From an instance's own configuration and its profiles to what it really has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nova_lxd.lxd.db import profiles as db_profiles
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.profiles import Devices, Profile
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.paths import DEFAULT_PROJECT


class UnknownProfile(BadRequest):
    """A profile that an instance shall use does not exist."""


@dataclass(frozen=True)
class Expanded:
    """Config and devices after the profiles, in order, and the instance's own on top."""

    config: dict[str, str]
    devices: Devices

    @property
    def root(self) -> tuple[str, dict[str, str]] | None:
        """Name and configuration of the root disk device."""
        return root_disk(self.devices)


def root_disk(devices: Mapping[str, dict[str, str]]) -> tuple[str, dict[str, str]] | None:
    """The device that is the root disk: type disk, path ``/``, with a pool and no source.

    :raises BadRequest: there are several.
    """
    found = [(name, device) for name, device in devices.items() if is_root(device)]
    if len(found) > 1:
        raise BadRequest("More than one root device found")
    return found[0] if found else None


def is_root(device: Mapping[str, str]) -> bool:
    """Is this device a root disk?"""
    return (
        device.get("type") == "disk"
        and device.get("path") == "/"
        and bool(device.get("pool"))
        and not device.get("source")
    )


def expand(
    profiles: Iterable[Profile], config: Mapping[str, str], devices: Mapping[str, dict[str, str]]
) -> Expanded:
    """Merge; a device replaces one of the same name whole."""
    all_config: dict[str, str] = {}
    all_devices: Devices = {}
    for profile in profiles:
        all_config.update(profile.config)
        all_devices.update(profile.devices)
    all_config.update(config)
    all_devices.update(devices)
    return Expanded(all_config, {name: dict(d) for name, d in all_devices.items()})


class Expander:
    """Profiles by project, read once: expands many instances with two queries."""

    def __init__(self, db: Database) -> None:
        self._own = {p.name: p.feature("profiles") for p in db_projects.get_all(db)}
        self._profiles = {(p.project, p.name): p for p in db_profiles.get_all(db)}

    def profiles_project(self, project: str) -> str:
        """The project in which an instance of ``project`` looks its profiles up."""
        return project if self._own.get(project, False) else DEFAULT_PROJECT

    def profiles(self, project: str, names: Sequence[str]) -> list[Profile]:
        """:raises BadRequest: one does not exist."""
        where = self.profiles_project(project)
        found = []
        for name in names:
            profile = self._profiles.get((where, name))
            if profile is None:
                raise UnknownProfile(f'Requested profile "{name[:64]}" doesn\'t exist')
            found.append(profile)
        return found

    def expand(
        self,
        project: str,
        profiles: Sequence[str],
        config: Mapping[str, str],
        devices: Mapping[str, dict[str, str]],
    ) -> Expanded:
        """The expanded configuration of an instance of ``project``.

        :raises BadRequest: a profile does not exist.
        """
        return expand(self.profiles(project, profiles), config, devices)

    def with_changed(self, profile: Profile) -> None:
        """Take ``profile`` in place of the stored one of its name (to see what would be)."""
        self._profiles[(profile.project, profile.name)] = profile
