# SPDX-License-Identifier: Apache-2.0
"""Instances and snapshots as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nova_lxd.lxd.api.envelope import timestamp
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import STATUS_TEXT, Instance

_EPOCH = "1970-01-01T00:00:00Z"
ZERO = "0001-01-01T00:00:00Z"


def instance(inst: Instance, record: InstanceRecord, expanded: Expanded) -> dict[str, Any]:
    """LXD's Instance object."""
    status = inst.status
    return {
        "name": record.name,
        "status": STATUS_TEXT[status],
        "status_code": status,
        "created_at": timestamp(record.created_at),
        "last_used_at": timestamp(record.last_used_at) if record.last_used_at else _EPOCH,
        "location": "none",
        "type": record.type,
        "project": record.project,
        "architecture": record.architecture,
        "config": record.config,
        "devices": record.devices,
        "ephemeral": record.ephemeral,
        "profiles": record.profiles,
        "stateful": record.stateful,
        "description": record.description,
        "expanded_config": expanded.config,
        "expanded_devices": expanded.devices,
    }


def etag_fields(record: InstanceRecord) -> list[Any]:
    """What the instance's ETag covers."""
    return [
        record.architecture,
        record.config,
        record.devices,
        record.ephemeral,
        record.profiles,
        record.description,
    ]


def snapshot(
    record: SnapshotRecord, expanded: Expanded, size: int | None = None
) -> dict[str, Any]:
    """LXD's InstanceSnapshot object; ``size`` in bytes, -1 when it is not known."""
    return {
        "name": record.name,
        "created_at": timestamp(record.created_at),
        "expires_at": timestamp(record.expires_at),
        "last_used_at": ZERO,
        "architecture": record.architecture,
        "config": record.config,
        "devices": record.devices,
        "ephemeral": record.ephemeral,
        "profiles": record.profiles,
        "stateful": record.stateful,
        "expanded_config": expanded.config,
        "expanded_devices": expanded.devices,
        "size": -1 if size is None else size,
    }


def snapshot_etag(record: SnapshotRecord) -> list[Any]:
    """What a snapshot's ETag covers."""
    return [timestamp(record.expires_at)]


def find(request: Request) -> Instance:
    """The instance of the path, in the project of the request.

    :raises NotFound: there is none.
    """
    return request.services.instances.get(request.project().name, request.path("name"))


def require_container(kind: str) -> None:
    """:raises BadRequest: something but containers is asked for."""
    if kind not in ("", "container"):
        raise BadRequest(
            "Instance type not supported: virtual machines are not available here"
            if kind == "virtual-machine"
            else f"Invalid instance type {kind[:32]!r}"
        )


def parse_time(text: str | None) -> float:
    """The UNIX time of an RFC 3339 text; 0 for none, and for LXD's zero time.

    :raises BadRequest: it is no time.
    """
    if not text or text.startswith("0001-01-01T00:00:00"):
        return 0.0
    try:
        # Go writes nanoseconds, Python reads microseconds.
        head, dot, tail = text.partition(".")
        if dot:
            digits = len(tail) - len(tail.lstrip("0123456789"))
            text = f"{head}.{tail[:digits][:6]}{tail[digits:]}"
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise ValueError("it has no time zone")
        return max(0.0, when.timestamp())
    except (ValueError, OverflowError) as exc:
        raise BadRequest(f"Invalid time {text[:40]!r}: {exc}") from exc


def resources(
    request: Request, names: Sequence[str], snapshots: Sequence[str] = ()
) -> dict[str, list[str]]:
    """An operation's resources: the instances it is about."""
    found = {
        "containers": [f"/1.0/containers/{name}" for name in names],
        "instances": [f"/1.0/instances/{name}" for name in names],
    }
    if snapshots:
        found["instances_snapshots"] = [
            f"/1.0/instances/{names[0]}/snapshots/{name}" for name in snapshots
        ]
    return found


def legacy_base(request: Request) -> str:
    """``/1.0/containers`` or ``/1.0/instances``: as the client asked."""
    old = request.api_url().startswith("/1.0/containers")
    return "/1.0/containers" if old else "/1.0/instances"
