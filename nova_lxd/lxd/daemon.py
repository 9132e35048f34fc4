# SPDX-License-Identifier: Apache-2.0
"""Start-up and shut-down of the daemon: wires the parts together, nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from nova_lxd.lxd import api, ownership
from nova_lxd.lxd.api import selfsigned
from nova_lxd.lxd.api.listener import HttpsListener
from nova_lxd.lxd.api.server import Server
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.ending import Ending
from nova_lxd.lxd.environment import Environment
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.guest.server import GuestServer
from nova_lxd.lxd.images.service import Images
from nova_lxd.lxd.instances.imagetree import ImageTrees
from nova_lxd.lxd.instances.service import Instances
from nova_lxd.lxd.logs import LoggingEvents
from nova_lxd.lxd.network.service import Networks
from nova_lxd.lxd.operations import Operations
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
        ending=Ending(operations, config),
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
        _follow_addresses(loop, services)
        await _open_https(services)
        services.ready.set()
        notify_systemd("READY=1")
        LOG.info("Ready in %s", paths.root)
        await loop.run_in_executor(services.executor, services.instances.autostart)
        await services.stop.wait()
        notify_systemd("STOPPING=1")
        await services.ending.drain()
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
    for key, listener in services.server.listeners.items():
        address = services.config.get(key)
        try:
            await listener.move(address)
        except Exception as exc:  # an address that is gone must not keep the socket from serving
            LOG.error("Opening %s %r failed: %s", key, address, exc)
            services.warnings.warn("Unable to listen on address", str(exc), severity="high")


def _follow_addresses(loop: asyncio.AbstractEventLoop, services: Services) -> None:
    def follow(key: str, listener: HttpsListener) -> None:
        def apply(values: Mapping[str, str]) -> None:
            address = values.get(key, "")
            asyncio.run_coroutine_threadsafe(listener.move(address), loop).result()

        services.config.on_change(key, apply)

    for key, listener in services.server.listeners.items():
        follow(key, listener)


def _handle_signals(loop: asyncio.AbstractEventLoop, services: Services) -> None:
    """SIGTERM and SIGPWR let operations end first; a second signal or SIGINT does not wait."""
    running: set[asyncio.Task[None]] = set()

    def begin(verb: Callable[[], Coroutine[None, None, None]]) -> None:
        if services.ending.begun:
            services.ending.hurry()
            return
        task = loop.create_task(verb())
        running.add(task)
        task.add_done_callback(running.discard)

    async def terminate() -> None:
        await services.ending.wait_for_operations()
        services.stop.set()

    async def power_failure() -> None:
        await services.ending.wait_for_operations()
        await loop.run_in_executor(services.executor, services.instances.shutdown_all)
        services.power_down()

    def interrupt() -> None:
        services.ending.hurry()
        services.stop.set()

    loop.add_signal_handler(signal.SIGTERM, begin, terminate)
    loop.add_signal_handler(signal.SIGPWR, begin, power_failure)
    loop.add_signal_handler(signal.SIGINT, interrupt)
