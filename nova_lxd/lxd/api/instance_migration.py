# SPDX-License-Identifier: Apache-2.0
"""Instances and snapshots sent to and received from other servers (``migration`` in bodies)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope, instance_sources, instance_view
from nova_lxd.lxd.api.migration_peer import Dialled, Progress, Rendezvous, WebSocketPeer
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.db.snapshots import SnapshotRecord
from nova_lxd.lxd.errors import BadRequest, NotImplementedHere
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.migration import sink as migration_sink
from nova_lxd.lxd.instances.migration import source as migration_source
from nova_lxd.lxd.instances.migration.source import Sending
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema.instances import InstancePost, InstancesPost, SnapshotPost

Work = Callable[[WebSocketPeer], Any]


class Target(msgspec.Struct):
    """Where a source shall push to (LXD API: InstancePostTarget)."""

    certificate: str = ""
    operation: str = ""
    secrets: dict[str, str] | None = None


async def source(request: Request, inst: Instance, body: InstancePost) -> web.StreamResponse:
    """Send an instance away: POST /1.0/instances/NAME."""
    migration_source.check(inst, live=body.live)
    wanted = Sending(inst, instance_only=body.instance_only or body.container_only)
    resources = instance_view.resources(request, [inst.name])
    return _send(request, wanted, body.target, "Migrating instance", resources)


async def snapshot_source(
    request: Request, inst: Instance, record: SnapshotRecord, body: SnapshotPost
) -> web.StreamResponse:
    """Send one snapshot away: POST /1.0/instances/NAME/snapshots/SNAPSHOT."""
    wanted = Sending(inst, snapshot=record.name)
    resources = instance_view.resources(request, [inst.name], [record.name])
    return _send(request, wanted, body.target, "Transferring snapshot", resources)


def _send(
    request: Request,
    wanted: Sending,
    target: Mapping[str, Any] | None,
    description: str,
    resources: Mapping[str, list[str]],
) -> web.StreamResponse:
    svc = request.services.instances

    def work(peer: WebSocketPeer) -> None:
        migration_source.send(svc, wanted, peer)

    name = f"{wanted.inst.name}/{wanted.snapshot}" if wanted.snapshot else wanted.inst.name
    dialled = None
    if target is not None:
        try:
            told = msgspec.convert(target, Target)
        except msgspec.ValidationError as exc:
            raise BadRequest(f"Sending {wanted.inst} failed: bad target: {exc}") from exc
        dialled = Dialled(told.operation, told.secrets or {}, told.certificate)
    return _operation(request, wanted.inst.project, description, resources, name, work, dialled)


async def sink(request: Request, project: str, body: InstancesPost) -> web.StreamResponse:
    """Receive an instance: POST /1.0/instances with a source of type ``migration``."""
    told = body.source
    svc = request.services.instances
    if told.mode not in ("pull", "push"):
        raise NotImplementedHere(f"Mode {told.mode[:32]!r} not implemented")
    if told.live:
        raise BadRequest(
            "Unable to perform container live migration. CRIU isn't installed on the destination"
            " server: stop the instance, or copy it with --stateless"
        )
    arrival = await request.run(
        migration_sink.prepare,
        svc,
        instance_sources.new_instance(project, body),
        refresh=told.refresh,
        instance_only=told.instance_only or told.container_only,
    )

    def work(peer: WebSocketPeer) -> None:
        migration_sink.receive(svc, arrival, peer)

    dialled = None
    if told.mode == "pull":
        dialled = Dialled(told.operation, told.secrets or {}, told.certificate)
    resources = instance_view.resources(request, [body.name])
    return _operation(request, project, "Creating instance", resources, body.name, work, dialled)


def _operation(
    request: Request,
    project: str,
    description: str,
    resources: Mapping[str, list[str]],
    name: str,
    work: Work,
    dialled: Dialled | None,
) -> web.StreamResponse:
    """Run a migration's work as an operation that connects, or is connected to."""
    operations = request.services.operations
    if dialled is None:
        meeting = Rendezvous()

        async def serve(op: Operation) -> None:
            try:
                peer = await _meet(op, name, meeting)
                try:
                    await operations.on_thread(lambda: work(peer))
                finally:
                    await peer.close()
            finally:
                meeting.end()

        op = operations.websocket(
            project,
            description,
            serve,
            meeting.connect,
            resources=resources,
            metadata=meeting.secrets,
            on_cancel=_not_begun,
            requestor=request.requestor,
        )
        return envelope.operation(op)

    async def dial(op: Operation) -> WebSocketPeer:
        return await _meet(op, name, dialled)

    loop = request.services.loop

    def connect_and_work(op: Operation) -> None:
        try:
            peer = asyncio.run_coroutine_threadsafe(dial(op), loop).result()
            try:
                work(peer)
            finally:
                asyncio.run_coroutine_threadsafe(peer.close(), loop).result()
        finally:
            asyncio.run_coroutine_threadsafe(dialled.close(), loop).result()

    op = operations.task(
        project,
        description,
        connect_and_work,
        resources=resources,
        on_cancel=_not_begun,
        requestor=request.requestor,
    )
    return envelope.operation(op)


def _not_begun() -> None:
    """Cancel an operation that has not begun to connect: it looks before it does."""


async def _meet(op: Operation, name: str, way: Rendezvous | Dialled) -> WebSocketPeer:
    """Connect, or be connected to; from then on the operation can be cancelled."""
    op.check_cancelled()
    connecting = asyncio.ensure_future(way.sockets())
    loop = asyncio.get_running_loop()

    def give_up() -> None:
        loop.call_soon_threadsafe(connecting.cancel)

    op.on_cancel(give_up)
    if op.cancel_requested.is_set():
        connecting.cancel()
    try:
        control, fs = await connecting
    except asyncio.CancelledError:
        op.check_cancelled()
        raise
    peer = WebSocketPeer(
        control, fs, Progress(name, lambda text: op.update({"fs_progress": text}))
    )
    op.on_cancel(peer.abort)
    if op.cancel_requested.is_set():
        peer.abort()
    return peer
