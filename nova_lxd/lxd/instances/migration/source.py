# SPDX-License-Identifier: Apache-2.0
"""The sending side of a migration: an instance with its snapshots, or one snapshot."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest, LXDError
from nova_lxd.lxd.instances import stillness, volumes
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.migration import negotiation
from nova_lxd.lxd.instances.migration.peer import (
    Peer,
    PeerFailed,
    receive_header,
    send_failure,
)
from nova_lxd.lxd.instances.migration.records import snapshot_message
from nova_lxd.lxd.instances.migration.wire import CRIU_NONE, Control, Header
from nova_lxd.lxd.schema.sizes import parse_size
from nova_lxd.lxd.storage import rsync
from nova_lxd.lxd.storage.drivers.interface import Transfer
from nova_lxd.lxd.storage.volume import ContentType

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
_PATIENCE = 30.0


@dataclass(frozen=True)
class Sending:
    """What is to be sent: an instance, alone or with its snapshots, or one snapshot of it."""

    inst: Instance
    snapshot: str = ""
    instance_only: bool = False


def check(inst: Instance, *, live: bool) -> None:
    """:raises BadRequest: a running instance shall go with its memory."""
    if live and inst.is_running:
        raise BadRequest(
            "Unable to perform container live migration. CRIU isn't installed on the source "
            "server: stop the instance, or copy it with --stateless"
        )


def send(svc: Instances, wanted: Sending, peer: Peer) -> None:
    """Send to the peer what is wanted; returns when the peer has confirmed it.

    :raises LXDError: the instance is busy, a side failed, or the connection broke.
    """
    inst = wanted.inst
    with svc.hold(inst, "migrate", _PATIENCE):
        try:
            _send(svc, wanted, peer)
        except (LXDError, OSError) as exc:
            cause = peer.failure or exc
            send_failure(peer, cause)
            raise cause from exc
        confirmed = Control.decode(peer.receive())
        if not confirmed.success:
            raise PeerFailed(confirmed.message or "The other server gave up")
    LOG.info("Sent %s to another server", inst)


def _offered(svc: Instances, wanted: Sending) -> list[SnapshotRecord]:
    if wanted.snapshot or wanted.instance_only:
        return []
    return [s for s in db_snapshots.of_instance(svc.ctx.db, wanted.inst.id) if not s.intent]


def _chosen(offered: Sequence[SnapshotRecord], answer: Header) -> tuple[str, ...]:
    """The snapshots that the peer wants, oldest first."""
    names = [s.name for s in offered]
    if not answer.refresh:
        return tuple(names)
    unknown = set(answer.snapshot_names) - set(names)
    if unknown:
        raise BadRequest(f"The other server asks for unknown snapshot {min(unknown)!r}")
    return tuple(name for name in names if name in answer.snapshot_names)


def _send(svc: Instances, wanted: Sending, peer: Peer) -> None:
    inst = wanted.inst
    record = svc.record(inst)
    pool = svc.ctx.storage.get(record.pool)
    volume = volumes.of_record(record)
    offered = _offered(svc, wanted)
    if wanted.snapshot:
        volume = volume.at(svc.snapshot(inst, wanted.snapshot).name)
    types = pool.driver.migration_types(ContentType.FILESYSTEM, refresh=False)
    header = negotiation.offer(types)
    header.snapshots = [snapshot_message(s) for s in offered]
    header.snapshot_names = [s.name for s in offered]
    header.predump = False
    changing = inst.is_running and not wanted.snapshot
    if changing:
        header.criu = CRIU_NONE
    peer.send(header.encode())
    answer = receive_header(peer)
    kind = negotiation.match(answer, types)[0]
    transfer = Transfer(
        kind, _chosen(offered, answer), bool(answer.refresh), True, _bwlimit(pool.config)
    )
    by_rsync = kind.name == rsync.RSYNC.name
    transport = peer.transport(sends=True, receives=by_rsync)
    if changing and by_rsync and answer.criu == CRIU_NONE:
        # Most of it while the instance runs; what has changed meanwhile while it holds still.
        pool.driver.send(volume, replace(transfer, final=False), transport)
        transfer = replace(transfer, snapshots=())
    with ExitStack() as stack:
        if changing and by_rsync:
            stack.enter_context(stillness.paused(svc, inst))
        pool.driver.send(volume, transfer, transport)
    peer.finish()


def _bwlimit(config: Mapping[str, str]) -> int:
    """``rsync.bwlimit`` in bytes per second; a bare number is in KiB, as rsync has it."""
    text = config.get("rsync.bwlimit", "")
    return int(text) * 1024 if text.isdecimal() else parse_size(text)
