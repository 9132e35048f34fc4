# SPDX-License-Identifier: Apache-2.0
"""Snapshots' records and id maps, to and from the messages of a migration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.idmap import Entry, Idmap
from nova_lxd.lxd.images import architectures
from nova_lxd.lxd.instances import naming
from nova_lxd.lxd.instances.expand import is_root
from nova_lxd.lxd.instances.intents import CREATE
from nova_lxd.lxd.instances.migration.wire import Config, Device, IdmapEntry, Snapshot
from nova_lxd.lxd.schema import instancekeys

# LXD numbers the architectures in this order, from 1.
_ARCHITECTURES = tuple(architectures.ALIASES)
# Keys that describe the server which an instance is on.
_FOREIGN = ("volatile.idmap.", "volatile.last_state.", "volatile.uuid")


def _items(values: Mapping[str, str]) -> list[Config]:
    return [Config(key, value) for key, value in values.items()]


def snapshot_message(record: SnapshotRecord) -> Snapshot:
    """What the other server has to know of a snapshot."""
    return Snapshot(
        name=record.name,
        config=_items(record.config),
        profiles=list(record.profiles),
        ephemeral=record.ephemeral,
        devices=[Device(name, _items(device)) for name, device in record.devices.items()],
        architecture=_ARCHITECTURES.index(record.architecture) + 1,
        stateful=False,
        creation_date=int(record.created_at),
        last_used_date=0,
        expiry_date=int(record.expires_at),
    )


def snapshot_record(message: Snapshot, instance: InstanceRecord) -> SnapshotRecord:
    """The record of a snapshot that is about to be received for ``instance``.

    :raises BadRequest: its name, architecture or configuration is not valid here.
    """
    naming.check_snapshot_name(message.name)
    if not 1 <= message.architecture <= len(_ARCHITECTURES):
        raise BadRequest(
            f"Receiving snapshot {message.name!r} failed: its architecture is not known here"
        )
    config = {c.key: c.value for c in message.config if not c.key.startswith(_FOREIGN)}
    instancekeys.validate(config)
    devices = {d.name: {c.key: c.value for c in d.config} for d in message.devices}
    return SnapshotRecord(
        instance_id=instance.id,
        name=message.name,
        architecture=_ARCHITECTURES[message.architecture - 1],
        created_at=float(message.creation_date or instance.created_at),
        ephemeral=message.ephemeral,
        config=config,
        # The root disk is where the instance's is: snapshots never are on another pool.
        devices={n: {**d, "pool": instance.pool} if is_root(d) else d for n, d in devices.items()},
        profiles=list(message.profiles),
        expires_at=float(max(message.expiry_date or 0, 0)),
        intent=CREATE,
    )


def check_names(snapshots: Sequence[Snapshot]) -> None:
    """:raises BadRequest: two snapshots have the same name."""
    names = [snapshot.name for snapshot in snapshots]
    if len(set(names)) != len(names):
        raise BadRequest("Receiving the instance failed: two of its snapshots have the same name")


def idmap_of(entries: Sequence[IdmapEntry]) -> Idmap:
    """The map that the sender's trees are shifted by; empty when they are not."""
    # LXD puts host ids into 32 bits with a sign.
    return Idmap(
        tuple(
            Entry(e.is_uid, e.is_gid, e.host % 2**32, e.ns % 2**32, e.size % 2**32)
            for e in entries
        )
    )
