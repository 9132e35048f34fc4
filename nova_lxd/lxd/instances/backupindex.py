# SPDX-License-Identifier: Apache-2.0
"""``backup/index.yaml``: what a backup says of the instance in it, in LXD's form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.db.storage import PoolRow
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.metadata import MAX_DATE, load_yaml
from nova_lxd.lxd.instances.expand import Expanded

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The longest index.yaml that is read, in bytes.
MAX_INDEX = 4 * 1024 * 1024


@dataclass(frozen=True)
class Index:
    """A backup's description, read from a file that nobody vouches for."""

    name: str
    pool: str
    optimized: bool
    instance: InstanceRecord
    backend: str
    snapshots: list[SnapshotRecord] = field(default_factory=list)


def dump(
    record: InstanceRecord,
    expanded: Expanded,
    snapshots: list[tuple[SnapshotRecord, Expanded]],
    pool: PoolRow,
    *,
    optimized: bool,
) -> bytes:
    """index.yaml of an instance with the given snapshots."""
    index = {
        "name": record.name,
        "backend": pool.driver,
        "pool": pool.name,
        "snapshots": [snapshot.name for snapshot, _expanded in snapshots],
        "optimized": optimized,
        "optimized_header": False,
        "type": "container",
        "config": describe(record, expanded, snapshots, pool),
    }
    return yaml.safe_dump(index, sort_keys=False).encode()


def describe(
    record: InstanceRecord,
    expanded: Expanded,
    snapshots: list[tuple[SnapshotRecord, Expanded]],
    pool: PoolRow,
) -> dict[str, Any]:
    """The ``config`` of index.yaml, which is backup.yaml of the volume too."""
    return {
        "container": {
            "architecture": record.architecture,
            "config": dict(record.config),
            "devices": {name: dict(d) for name, d in record.devices.items()},
            "ephemeral": record.ephemeral,
            "profiles": list(record.profiles),
            "stateful": False,
            "description": record.description,
            "created_at": _time(record.created_at),
            "expanded_config": dict(expanded.config),
            "expanded_devices": {name: dict(d) for name, d in expanded.devices.items()},
            "name": record.name,
            "status": "Stopped",
            "status_code": 102,
            "last_used_at": _time(record.last_used_at),
            "location": "none",
            "type": "container",
            "project": record.project,
        },
        "snapshots": [_snapshot(snapshot, found) for snapshot, found in snapshots],
        "pool": {
            "config": dict(pool.config),
            "description": pool.description,
            "name": pool.name,
            "driver": pool.driver,
            "used_by": [],
            "status": "Created",
            "locations": ["none"],
        },
        "volume": {
            "config": {},
            "description": "",
            "name": record.name,
            "type": "container",
            "used_by": [],
            "location": "none",
            "content_type": "filesystem",
            "project": record.project,
            "created_at": _time(record.created_at),
        },
        "volume_snapshots": [
            {
                "description": "",
                "expires_at": _time(snapshot.expires_at),
                "name": snapshot.name,
                "config": {},
                "content_type": "filesystem",
                "created_at": _time(snapshot.created_at),
            }
            for snapshot, _expanded in snapshots
        ],
    }


def keep(directory: Path, description: Mapping[str, Any]) -> None:
    """Write backup.yaml into an instance's volume: real LXD reads it when it imports a backup.

    :raises OSError: the volume is full.
    """
    new = directory / ".backup.yaml.new"
    new.unlink(missing_ok=True)
    # Made anew and renamed: what lies there may be a link that came with an import.
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(yaml.safe_dump(dict(description), sort_keys=False).encode())
        new.rename(directory / "backup.yaml")
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _snapshot(snapshot: SnapshotRecord, expanded: Expanded) -> dict[str, Any]:
    return {
        "expires_at": _time(snapshot.expires_at),
        "architecture": snapshot.architecture,
        "config": dict(snapshot.config),
        "created_at": _time(snapshot.created_at),
        "devices": {name: dict(d) for name, d in snapshot.devices.items()},
        "ephemeral": snapshot.ephemeral,
        "expanded_config": dict(expanded.config),
        "expanded_devices": {name: dict(d) for name, d in expanded.devices.items()},
        "last_used_at": _time(0),
        "name": snapshot.name,
        "profiles": list(snapshot.profiles),
        "stateful": False,
        "size": -1,
    }


def _time(seconds: float) -> str:
    """A time as LXD reads it: RFC 3339, which is not how YAML would be written here."""
    moment = datetime.fromtimestamp(seconds, UTC) if seconds else datetime(1, 1, 1, tzinfo=UTC)
    return moment.isoformat().replace("+00:00", "Z")


def parse(data: bytes) -> Index:
    """Read an index.yaml.

    :raises BadRequest: it is no proper index, or of a virtual machine.
    """
    loaded = load_yaml(data)
    if not isinstance(loaded, dict):
        raise _refuse("it is no mapping")
    if loaded.get("type", "container") != "container":
        raise _refuse("it is the backup of a virtual machine")
    config = loaded.get("config")
    container = config.get("container") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(container, dict):
        raise _refuse("it describes no instance")
    instance = InstanceRecord(
        project="",
        name=str(loaded.get("name", "")),
        architecture=str(container.get("architecture", "")),
        pool="",
        created_at=_seconds(container.get("created_at")),
        description=str(container.get("description", "")),
        ephemeral=_bool(container.get("ephemeral")),
        config=_texts(container.get("config")),
        devices=_devices(container.get("devices")),
        profiles=_names(container.get("profiles")),
    )
    wanted = _names(loaded.get("snapshots"))
    described = {s.name: s for s in map(_parse_snapshot, _list(config.get("snapshots")))}
    if set(wanted) - described.keys():
        raise _refuse("it does not describe all of its snapshots")
    return Index(
        instance.name,
        str(loaded.get("pool", "")),
        _bool(loaded.get("optimized")),
        instance,
        str(loaded.get("backend", "")),
        [described[name] for name in wanted],
    )


def _refuse(why: str) -> BadRequest:
    return BadRequest(f"Reading the backup's index.yaml failed: {why}")


def _parse_snapshot(entry: Any) -> SnapshotRecord:
    if not isinstance(entry, dict):
        raise _refuse("a snapshot is no mapping")
    return SnapshotRecord(
        instance_id=0,
        name=str(entry.get("name", "")),
        architecture=str(entry.get("architecture", "")),
        created_at=_seconds(entry.get("created_at")),
        ephemeral=_bool(entry.get("ephemeral")),
        config=_texts(entry.get("config")),
        devices=_devices(entry.get("devices")),
        profiles=_names(entry.get("profiles")),
        expires_at=_seconds(entry.get("expires_at")),
    )


def _bool(value: Any) -> bool:
    return str(value).lower() == "true"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(value: Any) -> list[str]:
    return [str(item) for item in _list(value)]


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {str(k): str(v) for k, v in value.items() if not isinstance(v, (dict, list))}


def _devices(value: Any) -> dict[str, dict[str, str]]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): _texts(device) for name, device in value.items()}


def _seconds(value: Any) -> float:
    """The UNIX time of a date, 0 for none; never one that could not be told as a date again."""
    try:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00")[:32])
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - _EPOCH).total_seconds()), MAX_DATE)
