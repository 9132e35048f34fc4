# SPDX-License-Identifier: Apache-2.0
"""Bodies of the instance API, with Go's defaults: an absent list or map is null."""

from __future__ import annotations

from typing import Any

import msgspec

Config = dict[str, str]
DeviceMap = dict[str, dict[str, str]]


class InstanceSource(msgspec.Struct):
    """Where a new instance comes from (LXD API: InstanceSource)."""

    type: str = ""
    certificate: str = ""
    alias: str = ""
    fingerprint: str = ""
    properties: dict[str, str] | None = None
    server: str = ""
    secret: str = ""
    protocol: str = ""
    base_image: str = msgspec.field(default="", name="base-image")
    mode: str = ""
    operation: str = ""
    secrets: dict[str, str] | None = None
    source: str = ""
    live: bool = False
    instance_only: bool = False
    container_only: bool = False
    refresh: bool = False
    project: str = ""
    allow_inconsistent: bool = False


class InstancesPost(msgspec.Struct):
    """Body of POST /1.0/instances."""

    name: str = ""
    type: str = ""
    source: InstanceSource = msgspec.field(default_factory=InstanceSource)
    instance_type: str = ""
    architecture: str = ""
    config: Config | None = None
    devices: DeviceMap | None = None
    ephemeral: bool = False
    profiles: list[str] | None = None
    restore: str = ""
    stateful: bool = False
    description: str = ""


class InstancePut(msgspec.Struct):
    """Body of PUT /1.0/instances/NAME; ``restore`` names a snapshot to go back to."""

    architecture: str = ""
    config: Config | None = None
    devices: DeviceMap | None = None
    ephemeral: bool = False
    profiles: list[str] | None = None
    restore: str = ""
    stateful: bool = False
    description: str = ""


class InstancePatch(msgspec.Struct):
    """Body of PATCH /1.0/instances/NAME: what is left out stays."""

    architecture: str | msgspec.UnsetType = msgspec.UNSET
    config: Config | None = None
    devices: DeviceMap | None = None
    ephemeral: bool | msgspec.UnsetType = msgspec.UNSET
    profiles: list[str] | None = None
    restore: str = ""
    description: str | msgspec.UnsetType = msgspec.UNSET


class InstancePost(msgspec.Struct):
    """Body of POST /1.0/instances/NAME: rename, move or send away."""

    name: str = ""
    migration: bool = False
    live: bool = False
    instance_only: bool = False
    container_only: bool = False
    target: dict[str, Any] | None = None
    pool: str = ""
    project: str = ""
    allow_inconsistent: bool = False


class StatePut(msgspec.Struct):
    """Body of PUT /1.0/instances/NAME/state; ``timeout`` in seconds, negative for ever."""

    action: str = ""
    timeout: int = 0
    force: bool = False
    stateful: bool = False


class InstancesPut(msgspec.Struct):
    """Body of PUT /1.0/instances: one action on all instances of the project."""

    state: StatePut | None = None


class SnapshotsPost(msgspec.Struct):
    """Body of POST /1.0/instances/NAME/snapshots."""

    name: str = ""
    stateful: bool = False
    expires_at: str | None = None


class SnapshotPut(msgspec.Struct):
    """Body of PUT and PATCH /1.0/instances/NAME/snapshots/SNAPSHOT."""

    expires_at: str | None = None


class SnapshotPost(msgspec.Struct):
    """Body of POST /1.0/instances/NAME/snapshots/SNAPSHOT: rename or send away."""

    name: str = ""
    migration: bool = False
    live: bool = False
    target: dict[str, Any] | None = None
