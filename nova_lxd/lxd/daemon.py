# SPDX-License-Identifier: Apache-2.0
"""Start-up and shut-down of the daemon: wires the parts together, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial

from nova_lxd.lxd import api, ownership
from nova_lxd.lxd.api import selfsigned
from nova_lxd.lxd.api.server import Server
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.environment import Environment
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.guest.server import GuestServer
from nova_lxd.lxd.images.service import Images
from nova_lxd.lxd.instances.imagetree import ImageTrees
from nova_lxd.lxd.instances.service import Instances
from nova_lxd.lxd.logs import LoggingEvents
from nova_lxd.lxd.network.service import Networks
from nova_lxd.lxd.operations import Operation, Operations
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.profiles import Profiles
from nova_lxd.lxd.projects import Projects
from nova_lxd.lxd.serverconfig import ServerConfig
from nova_lxd.lxd.services import Services
from nova_lxd.lxd.storage.custombackup import VolumeBackups
from nova_lxd.lxd.storage.service import Storage
from nova_lxd.lxd.trust import Trust
from nova_lxd.lxd.warnings import Warnings

LOG = logging.getLogger(__name__)
_REQUEST_THREADS = 16
# Each running operation holds a thread, and a graceful stop may hold one for minutes.
_OPERATION_THREADS = 256
_OPERATIONS_GRACE = 10.0
_CANCEL_GRACE = 15.0


def notify_systemd(state: str) -> None:
    """Tell systemd (sd_notify) when it started this process; else nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


def build(paths: Paths, group: str | None) -> Services:
    """Construct every part; nothing on the host is changed but files below LXD_DIR.

    :raises LXDError: the database is of a newer version, or a part cannot work here.
    """
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(_REQUEST_THREADS, "request")
    db = Database(paths.database)
    events = Events(loop)
    operations = Operations(loop, ThreadPoolExecutor(_OPERATION_THREADS, "operation"), events)
    config = ServerConfig(db)
    selfsigned.ensure_server_certificate(paths.server_cert, paths.server_key)
    warnings = Warnings(db)
    projects = Projects(db, events)
    storage = Storage(db, paths, events, warnings)
    environment = Environment(
        config, paths.server_cert, storage.drivers_in_use, storage.supported_drivers()
    )
    networks = Networks(db, paths, events, warnings)
    images = Images(paths, db, events, operations, storage, config)
    instances = Instances(
        loop=loop,
        paths=paths,
        db=db,
        events=events,
        operations=operations,
        storage=storage,
        networks=networks,
        images=images,
        warnings=warnings,
        config=config,
    )
    storage.bind_users(instances)
    networks.bind_users(instances)
    images.bind_exporter(ImageTrees(instances))
    services = Services(
        paths=paths,
        loop=loop,
        executor=executor,
        db=db,
        events=events,
        operations=operations,
        config=config,
        environment=environment,
        trust=Trust(db, events, operations, config),
        projects=projects,
        profiles=Profiles(db, events, lambda: instances),
        warnings=warnings,
        storage=storage,
        volume_backups=_volume_backups(paths, db, storage, config),
        networks=networks,
        images=images,
        instances=instances,
        server=None,  # type: ignore[arg-type] # set on the next line: the server needs the services
        stop=asyncio.Event(),
        ready=asyncio.Event(),
    )
    services.server = Server(services, group)
    return services


def _volume_backups(
    paths: Paths, db: Database, storage: Storage, config: ServerConfig
) -> VolumeBackups:
    def algorithm() -> str:
        return config.get("backups.compression_algorithm")

    return VolumeBackups(db, paths, storage.volumes, storage.get, algorithm)


async def run(paths: Paths, group: str | None) -> None:
    """Serve until SIGTERM, SIGINT, SIGPWR or an API shutdown; containers outlive this.

    :raises LXDError: start-up failed; what was begun is undone.
    """
    api.load_resources()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        lock = ownership.claim(paths)
        stack.callback(os.close, lock)
        ownership.make_layout(paths)
        services = build(paths, group)
        stack.callback(services.db.close)
        handler = LoggingEvents(services.events)
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        _handle_signals(loop, services)
        await services.server.start()
        stack.push_async_callback(services.server.stop)
        await loop.run_in_executor(services.executor, _start_parts, services)
        stack.callback(_power_down, services)
        stack.callback(services.images.close)
        stack.callback(services.instances.close)
        guests = GuestServer(services)
        await guests.start()
        stack.push_async_callback(guests.stop)
        # Before the parts are closed: a client must not be told of instances let go as stopped.
        stack.push_async_callback(services.server.stop)
        _follow_https_address(loop, services)
        await _open_https(services)
        services.ready.set()
        notify_systemd("READY=1")
        LOG.info("Ready in %s", paths.root)
        await loop.run_in_executor(services.executor, services.instances.autostart)
        await services.stop.wait()
        notify_systemd("STOPPING=1")
        await _drain(services)
    LOG.info("Ended; instances keep running")


def _power_down(services: Services) -> None:
    """Release networks and pools when the instances were stopped, not only the daemon."""
    if services.powered_down:
        services.networks.stop()
        services.storage.stop()


def _start_parts(services: Services) -> None:
    """Reconcile what is on the host with the database, lowest layer first."""
    services.storage.start()
    services.volume_backups.sweep()
    services.networks.start()
    services.images.start()
    services.instances.start()


async def _open_https(services: Services) -> None:
    address = services.config.get("core.https_address")
    try:
        await services.server.listen_https(address)
    except Exception as exc:  # an address that is gone must not keep the unix socket from serving
        LOG.error("Opening the HTTPS address %r failed: %s", address, exc)
        services.warnings.warn("Unable to listen on address", str(exc), severity="high")


def _follow_https_address(loop: asyncio.AbstractEventLoop, services: Services) -> None:
    def apply(values: object) -> None:
        assert isinstance(values, dict)
        address = values.get("core.https_address", "")
        asyncio.run_coroutine_threadsafe(services.server.listen_https(address), loop).result()

    services.config.on_change("core.https_address", apply)


def _handle_signals(loop: asyncio.AbstractEventLoop, services: Services) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, services.stop.set)

    def power_failure() -> None:
        future = loop.run_in_executor(
            services.executor, partial(services.instances.shutdown_all, force=False, timeout=None)
        )
        future.add_done_callback(lambda _future: services.power_down())

    loop.add_signal_handler(signal.SIGPWR, power_failure)


async def _drain(services: Services) -> None:
    """Give running operations a moment to end; the rest is reconciled at the next start.

    Those that can be cancelled are, lest their worker threads wait for another server for ever.
    """
    operations = services.operations
    tasks = [op for op in operations.running() if op.kind == "task"]
    await _wait_for(services, tasks, _OPERATIONS_GRACE)
    cancelled = [op for op in operations.running() if op.may_cancel]
    for op in cancelled:
        with contextlib.suppress(BadRequest):  # it has ended just now
            operations.cancel(op)
    await _wait_for(services, cancelled, _CANCEL_GRACE)


async def _wait_for(services: Services, operations: Sequence[Operation], seconds: float) -> None:
    deadline = services.loop.time() + seconds
    for op in operations:
        await services.operations.wait(op, max(0.0, deadline - services.loop.time()))
