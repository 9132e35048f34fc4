# SPDX-License-Identifier: Apache-2.0
"""What is measured.  Each case leaves the daemon as it found it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import aiohttp

from benchmarks.client import Connection, interactive_first_byte
from benchmarks.subject import Subject

Case = Callable[[Subject, float], None]
_START = {"action": "start", "timeout": -1}
_KILL = {"action": "stop", "timeout": -1, "force": True}


def create(api: Connection, name: str, image: str = "busybox") -> None:
    source = {"type": "image", "alias": image}
    api.operate("POST", "/1.0/instances", {"name": name, "source": source})


def start(api: Connection, name: str) -> None:
    api.operate("PUT", f"/1.0/instances/{name}/state", _START)


def stop(api: Connection, name: str) -> None:
    api.operate("PUT", f"/1.0/instances/{name}/state", _KILL)


def delete(api: Connection, name: str) -> None:
    api.operate("DELETE", f"/1.0/instances/{name}")


@contextmanager
def guest(api: Connection, name: str = "guest", image: str = "busybox") -> Iterator[str]:
    """A running guest."""
    create(api, name, image)
    start(api, name)
    yield name
    stop(api, name)
    delete(api, name)


def many(count: float, scale: float, least: int = 3) -> int:
    return max(least, int(count * scale))


def idle(subject: Subject, scale: float) -> None:
    time.sleep(1)
    before = subject.cpu()
    time.sleep(5 * max(scale, 0.4))
    used = (subject.cpu() - before) / (5 * max(scale, 0.4)) * 100
    own, _monitors = subject.processes()
    subject.add("daemon, idle: PSS", [subject.pss(own)], "MB")
    subject.add("daemon, idle: CPU", [used], "%")


def server(subject: Subject, scale: float) -> None:
    with subject.connect() as api:
        subject.times("GET /1.0", many(500, scale), lambda _i: api.request("GET", "/1.0"))
    done = [0] * 8
    seconds = 3 * max(scale, 0.3)

    def hammer(slot: int) -> None:
        with subject.connect() as api:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                api.request("GET", "/1.0")
                done[slot] += 1

    threads = [threading.Thread(target=hammer, args=(slot,)) for slot in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    subject.add("GET /1.0, 8 connections", [sum(done) / seconds], "/s", smaller=False)


def lists(subject: Subject, scale: float) -> None:
    count = many(100, scale, 10)
    with subject.connect() as api:
        names = [f"l{index}" for index in range(count)]
        subject.times("create busybox", count, lambda index: create(api, names[index]))
        for level in (0, 1, 2):
            path = f"/1.0/instances?recursion={level}"
            label = f"list, recursion={level}, {count} stopped"
            subject.times(
                label, many(20, scale, 5), lambda _i, path=path: api.request("GET", path)
            )
        subject.times("delete", count, lambda index: delete(api, names[index]))


def running(subject: Subject, scale: float) -> None:
    count = many(20, scale, 5)
    with subject.connect() as api:
        names = [f"r{index}" for index in range(count)]
        for name in names:
            create(api, name)
        subject.times("start busybox", count, lambda index: start(api, names[index]))
        path = "/1.0/instances?recursion=2"
        label = f"list, recursion=2, {count} running"
        subject.times(label, many(20, scale, 5), lambda _i: api.request("GET", path))
        own, monitors = subject.processes()
        subject.add(f"daemon, {count} running: PSS", [subject.pss(own)], "MB")
        subject.add("monitor per container: PSS", [subject.pss(monitors) / count], "MB")
        subject.times("stop --force", count, lambda index: stop(api, names[index]))
        for name in names:
            delete(api, name)


def at_once(subject: Subject, scale: float) -> None:
    def launch(name: str) -> None:
        with subject.connect() as api:
            create(api, name)
            start(api, name)

    def remove(name: str) -> None:
        with subject.connect() as api:
            stop(api, name)
            delete(api, name)

    for label, count, workers in (
        ("create+start at once", many(20, scale, 6), 20),
        ("launch, 2 in parallel", many(50, scale, 6), 2),
    ):
        names = [f"a{index}" for index in range(count)]
        with ThreadPoolExecutor(workers) as pool:
            began = time.perf_counter()
            list(pool.map(launch, names))
            took = time.perf_counter() - began
            list(pool.map(remove, names))
        subject.add(f"{label} ({count})", [count / took], "/s", smaller=False)


def execs(subject: Subject, scale: float) -> None:
    with subject.connect() as api, guest(api) as name:
        path, body = f"/1.0/instances/{name}/exec", {"command": ["/bin/true"]}
        subject.times(
            "exec true, no WebSocket", many(50, scale), lambda _i: api.operate("POST", path, body)
        )
        samples = [
            interactive_first_byte(subject.daemon.socket, name) * 1000
            for _ in range(many(20, scale))
        ]
        subject.add("exec interactive, first byte", samples)


def files(subject: Subject, scale: float) -> None:
    big, small = os.urandom(100 << 20), os.urandom(1024)
    with subject.connect() as api, guest(api) as name:
        path = f"/1.0/instances/{name}/files?path=/root/f"
        kind = "X-LXD-type: file\r\nContent-Type: application/octet-stream\r\n"
        for label, data, count in (("1 kB", small, 30), ("100 MB", big, 5)):
            count = many(count, scale)
            subject.times(
                f"file push {label}",
                count,
                lambda _i, data=data: api.request("POST", path, data, kind),
            )
            subject.times(f"file pull {label}", count, lambda _i: api.request("GET", path))


def snapshots(subject: Subject, scale: float) -> None:
    count = many(10, scale)
    with subject.connect() as api:
        create(api, "snapped")
        path = "/1.0/instances/snapped"
        subject.times(
            "snapshot create",
            count,
            lambda index: api.operate("POST", f"{path}/snapshots", {"name": f"s{index}"}),
        )
        newest = {"restore": f"s{count - 1}"}
        subject.times("snapshot restore", count, lambda _i: api.operate("PUT", path, newest))
        subject.times(
            "snapshot delete",
            count,
            lambda index: api.operate("DELETE", f"{path}/snapshots/s{index}"),
        )
        source = {"type": "copy", "source": "snapped"}
        subject.times(
            "copy",
            count,
            lambda index: api.operate(
                "POST",
                "/1.0/instances",
                {"name": f"k{index}", "source": source, "profiles": ["default"]},
            ),
        )
        for index in range(count):
            delete(api, f"k{index}")
        delete(api, "snapped")


def publish(subject: Subject, scale: float) -> None:
    with subject.connect() as api:
        create(api, "source")
        body = {"source": {"type": "instance", "name": "source"}}
        samples = []
        for _ in range(many(3, scale, 2)):
            began = time.perf_counter()
            done = api.operate("POST", "/1.0/images", body)
            samples.append((time.perf_counter() - began) * 1000)
            api.operate("DELETE", f"/1.0/images/{done['metadata']['fingerprint']}")
        subject.add("publish busybox", samples)
        delete(api, "source")


def events(subject: Subject, scale: float) -> None:
    """From the request that changes something to its event on a listener's socket."""

    async def measure(count: int) -> list[float]:
        connector = aiohttp.UnixConnector(str(subject.daemon.socket))
        samples = []
        async with aiohttp.ClientSession("http://lxd", connector=connector) as session:
            stream = await session.ws_connect("/1.0/events?type=lifecycle")
            for index in range(count):
                body = {"description": f"d{index}"}
                began = time.perf_counter()
                task = asyncio.ensure_future(session.patch("/1.0/profiles/default", json=body))
                while json.loads((await stream.receive()).data)["type"] != "lifecycle":
                    pass
                samples.append((time.perf_counter() - began) * 1000)
                (await task).release()
                # A change may be told more than once; the next round must not hear of this one.
                with contextlib.suppress(TimeoutError):
                    while True:
                        await stream.receive(timeout=0.05)
            await stream.close()
        return samples

    subject.add("PATCH profile to its event", asyncio.run(measure(many(30, scale))))


def debian(subject: Subject, scale: float) -> None:
    if not subject.debian:
        return
    samples: dict[str, list[float]] = {}

    def timed(label: str, step: Callable[[], object]) -> None:
        began = time.perf_counter()
        step()
        samples.setdefault(label, []).append((time.perf_counter() - began) * 1000)

    with subject.connect() as api:
        create(api, "warm", "debian")
        delete(api, "warm")
        for index in range(many(5, scale)):
            name = f"deb{index}"
            path = f"/1.0/instances/{name}"
            timed("create Debian", lambda name=name: create(api, name, "debian"))
            timed("first start Debian", lambda name=name: start(api, name))
            timed(
                "snapshot of running Debian",
                lambda path=path: api.operate("POST", f"{path}/snapshots", {"name": "s"}),
            )
            timed("stop --force Debian", lambda name=name: stop(api, name))
            timed("delete Debian", lambda name=name: delete(api, name))
    for label, values in samples.items():
        subject.add(label, values)


CASES: dict[str, Case] = {
    "idle": idle,
    "server": server,
    "lists": lists,
    "running": running,
    "at-once": at_once,
    "exec": execs,
    "files": files,
    "snapshots": snapshots,
    "publish": publish,
    "events": events,
    "debian": debian,
}
