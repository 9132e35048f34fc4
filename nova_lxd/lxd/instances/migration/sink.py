# SPDX-License-Identifier: Apache-2.0
"""The receiving side of a migration: a new instance, or an existing one that is refreshed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest, LXDError, NotFound
from nova_lxd.lxd.host import shift
from nova_lxd.lxd.instances import create, intents, snapshots, volumes
from nova_lxd.lxd.instances.create import NewInstance
from nova_lxd.lxd.instances.expand import root_disk
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.migration import negotiation
from nova_lxd.lxd.instances.migration.peer import Peer, receive_header, send_failure
from nova_lxd.lxd.instances.migration.records import check_names, idmap_of, snapshot_record
from nova_lxd.lxd.instances.migration.wire import CRIU_NONE, Control, Header, Snapshot
from nova_lxd.lxd.storage import rsync
from nova_lxd.lxd.storage.drivers.interface import Driver, Transfer
from nova_lxd.lxd.storage.inside import check_root
from nova_lxd.lxd.storage.volume import ROOTFS, ContentType, Volume

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
_PATIENCE = 30.0
# What makes a moved instance the same one for its guest.
_IDENTITY = ("volatile.uuid", "volatile.cloud-init.instance-id")


@dataclass(frozen=True)
class Arrival:
    """An instance that is about to be received.

    :param refresh: it may exist and is made equal to the sender's then.
    """

    new: NewInstance
    instance_only: bool = False
    refresh: bool = False
    identity: Mapping[str, str] = field(default_factory=dict)


def prepare(svc: Instances, new: NewInstance, *, refresh: bool, instance_only: bool) -> Arrival:
    """Check what can be checked before the sender is asked for anything.

    :raises BadRequest: name, configuration or a device is wrong, or the instance to refresh runs.
    :raises Conflict: the name is taken.
    """
    identity = {key: new.config[key] for key in _IDENTITY if key in new.config}
    if refresh:
        try:
            target = svc.get(new.project, new.name)
        except NotFound:
            refresh = False
        else:
            if target.is_running:
                raise BadRequest("Cannot refresh a running instance")
            return Arrival(new, instance_only, True, identity)
    full = replace(
        new,
        config={**new.config, "volatile.apply_template": "copy"},
        devices=_with_root(svc, new),
        profiles=["default"] if new.profiles is None else new.profiles,
    )
    create.validate(svc, full)
    return Arrival(full, instance_only, False, identity)


def _with_root(svc: Instances, new: NewInstance) -> dict[str, dict[str, str]]:
    """The devices, with a root disk on a pool of this server where that can be told.

    An instance that has its root disk on a pool which this server has not goes to the pool of
    its profiles, or to the only one, as in LXD.
    """
    pools = svc.ctx.storage.pool_names()
    inherited = svc.expander().expand(new.project, new.profiles or [], {}, {}).root
    own = root_disk(new.devices)
    if own is not None and own[1]["pool"] in pools:
        return new.devices
    if own is None and inherited is not None:
        return new.devices
    name, device = own or ("root", {"type": "disk", "path": "/"})
    if inherited is not None:
        device = {**device, "pool": inherited[1]["pool"]}
    elif len(pools) == 1:
        device = {**device, "pool": pools[0]}
    return {**new.devices, name: device} if device.get("pool") else new.devices


def receive(svc: Instances, wanted: Arrival, peer: Peer) -> Instance:
    """Make the instance from what the peer sends, and confirm it.

    :raises LXDError: a side failed, or the connection broke; a new instance is not there then.
    """
    try:
        inst = _refreshed(svc, wanted, peer) if wanted.refresh else _made(svc, wanted, peer)
    except (LXDError, OSError) as exc:
        cause = peer.failure or exc
        send_failure(peer, cause)
        raise cause from exc
    peer.send(Control(True, "").encode())
    return inst


def _made(svc: Instances, wanted: Arrival, peer: Peer) -> Instance:
    new = wanted.new
    expanded = create.validate(svc, new)
    with ExitStack() as undo:
        record = create.insert(svc, new, expanded, intents.CREATE)
        undo.callback(db_instances.delete, svc.ctx.db, record.id)
        pool = svc.ctx.storage.get(record.pool)
        volume = pool.with_defaults(volumes.of_record(record, expanded))
        pool.check_size(volume.size, volume)
        offer = receive_header(peer)
        coming = _offered(svc, record, wanted, offer)
        _record_snapshots(svc, coming)
        _transfer(pool.driver, volume, offer, offer.snapshots, False, peer, undo)
        volumes.link(svc.ctx.paths, record.pool, volume, snapshots=bool(coming))
        undo.callback(volumes.unlink, svc.ctx.paths, volume)
        changes = create.prepare_devices(svc, record, expanded)
        with svc.ctx.db.write():
            _settle_snapshots(svc, record.id)
            db_instances.set_config(
                svc.ctx.db, record.id, {**changes, **wanted.identity}, intent=""
            )
        undo.pop_all()
    inst = svc.adopt_record(record)
    context = {"storage-pool": record.pool, "type": "container"}
    svc.announce("instance-created", inst, context=context)
    LOG.info("Received %s from another server", inst)
    return inst


def _offered(
    svc: Instances, record: InstanceRecord, wanted: Arrival, offer: Header
) -> list[SnapshotRecord]:
    """The snapshots that the sender is going to send, as they will be recorded.

    :raises BadRequest: one is not valid here.
    """
    check_names(offer.snapshots)
    if wanted.instance_only and offer.snapshots:
        raise BadRequest("The other server offers snapshots that were not asked for")
    if [s.name for s in offer.snapshots] != offer.snapshot_names:
        raise BadRequest("The other server does not describe the snapshots that it offers")
    found = [snapshot_record(message, record) for message in offer.snapshots]
    for snapshot in found:
        svc.expander().profiles(record.project, snapshot.profiles)
    return found


def _record_snapshots(svc: Instances, coming: Sequence[SnapshotRecord]) -> None:
    with svc.ctx.db.write():
        for snapshot in coming:
            db_snapshots.create(svc.ctx.db, snapshot)


def _settle_snapshots(svc: Instances, instance_id: int) -> None:
    for snapshot in db_snapshots.of_instance(svc.ctx.db, instance_id):
        if snapshot.intent == intents.CREATE:
            db_snapshots.update(svc.ctx.db, snapshot.id, intent="")


def _transfer(
    driver: Driver,
    volume: Volume,
    offer: Header,
    wanted: Sequence[Snapshot],
    refresh: bool,
    peer: Peer,
    undo: ExitStack,
) -> None:
    """Answer the offer and receive the volume; ``undo`` gets what removes it again."""
    ours = driver.migration_types(ContentType.FILESYSTEM, refresh=refresh)
    types = negotiation.match(offer, ours)
    kind = types[0]
    names = tuple(s.name for s in wanted)
    answer = negotiation.offer(types)
    answer.snapshots, answer.snapshot_names = list(wanted), list(names)
    answer.refresh, answer.predump = refresh, False
    if offer.criu == CRIU_NONE:
        answer.criu = CRIU_NONE
    elif offer.criu is not None:
        raise BadRequest(
            "Unable to perform container live migration. CRIU isn't installed on the destination"
            " server"
        )
    peer.send(answer.encode())
    by_rsync = kind.name == rsync.RSYNC.name
    twice = offer.criu == CRIU_NONE and by_rsync
    transport = peer.transport(sends=by_rsync, receives=True)
    ids = idmap_of(offer.idmap)

    def finish(tree: Path) -> None:
        # What the sender made of it may be a link to anywhere.
        check_root(tree, ROOTFS, "Receiving the instance")
        if ids:  # trees are kept with the ids that their guests see
            shift.unshift(tree / ROOTFS, ids)

    transfer = Transfer(kind, names, refresh, not twice, finish=finish)
    driver.receive(volume, transfer, transport)
    if not refresh:
        undo.callback(driver.delete_volume, volume)
    if twice:
        again = replace(transfer, snapshots=(), refresh=True, final=True)
        driver.receive(volume, again, transport)
    peer.finish()


def _refreshed(svc: Instances, wanted: Arrival, peer: Peer) -> Instance:
    """Make a stopped instance equal to the sender's; only what differs goes over the wire."""
    target = svc.get(wanted.new.project, wanted.new.name)
    with svc.hold(target, "refresh", _PATIENCE), ExitStack() as undo:
        if target.is_running:
            raise BadRequest("Cannot refresh a running instance")
        record = svc.record(target)
        driver = volumes.driver(svc.ctx, record.pool)
        offer = receive_header(peer)
        coming = _offered(svc, record, wanted, offer)
        if not wanted.instance_only:
            _drop_stale(svc, target, coming)
        have = {s.name for s in db_snapshots.of_instance(svc.ctx.db, target.id)}
        missing = [s for s in coming if s.name not in have]
        _record_snapshots(svc, missing)
        undo.callback(_forget_snapshots, svc, driver, record)
        names = {s.name for s in missing}
        asked = [s for s in offer.snapshots if s.name in names]
        volume = volumes.of_record(record)
        _transfer(driver, volume, offer, asked, True, peer, undo)
        undo.pop_all()
        with svc.ctx.db.write():
            _settle_snapshots(svc, record.id)
        if missing:
            volumes.link(svc.ctx.paths, record.pool, volume, snapshots=True)
    svc.announce("instance-updated", target)
    LOG.info("Refreshed %s from another server", target)
    return target


def _drop_stale(svc: Instances, target: Instance, coming: Sequence[SnapshotRecord]) -> None:
    """Delete the snapshots that the sender has not, or has others of the same name."""
    dates = {s.name: int(s.created_at) for s in coming}
    for snapshot in db_snapshots.of_instance(svc.ctx.db, target.id):
        if dates.get(snapshot.name) != int(snapshot.created_at):
            snapshots.delete(svc, target, snapshot.name)


def _forget_snapshots(svc: Instances, driver: Driver, record: InstanceRecord) -> None:
    """Remove the snapshots that were being received."""
    volume = volumes.of_record(record)
    for snapshot in db_snapshots.of_instance(svc.ctx.db, record.id):
        if snapshot.intent == intents.CREATE:
            driver.delete_snapshot(volume.at(snapshot.name))
            db_snapshots.delete(svc.ctx.db, snapshot.id)
