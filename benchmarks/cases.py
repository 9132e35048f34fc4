# SPDX-License-Identifier: Apache-2.0
"""What is measured.  Each case leaves the daemon as it found it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from benchmarks.client import Connection, random_bytes, requests_per_second
from benchmarks.load import load
from benchmarks.subject import DIR_POOL, PROFILE, Subject

Case = Callable[[Subject, float], None]
_START = {"action": "start", "timeout": -1}
_KILL = {"action": "stop", "timeout": -1, "force": True}
_DIR_ROOT = {"root": {"type": "disk", "path": "/", "pool": DIR_POOL}}


def create(
    api: Connection, name: str, image: str = "busybox", devices: dict[str, Any] | None = None
) -> None:
    body = {
        "name": name,
        "source": {"type": "image", "alias": image},
        "profiles": [PROFILE],
        "devices": devices or {},
    }
    api.operate("POST", "/1.0/instances", body)


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
    subject.add("daemon idle: PSS", [subject.pss(subject.processes()[0])], "MB")
    subject.add("daemon idle: CPU", [subject.idle_cpu(max(2.0, 10 * scale))], "%")


def server(subject: Subject, scale: float) -> None:
    with subject.connect() as api:
        api.request("GET", "/1.0")
        subject.times("GET /1.0", many(500, scale), lambda _i: api.request("GET", "/1.0"))
    rate = requests_per_second(subject.socket, "/1.0", 8, 3 * max(scale, 0.3))
    subject.add("GET /1.0, 8 connections", [rate], "/s", smaller=False)


def lists(subject: Subject, scale: float) -> None:
    count = many(100, scale, 10)
    names = [f"l{index}" for index in range(count)]
    with subject.connect() as api:
        subject.times("create busybox", count, lambda index: create(api, names[index]))
        for level in (0, 1, 2):
            path = f"/1.0/instances?recursion={level}"
            label = f"list, recursion={level}, stopped"
            repeat = many(20, scale, 5)
            subject.times(label, repeat, lambda _i, path=path: api.request("GET", path))
        subject.times("delete", count, lambda index: delete(api, names[index]))


def running(subject: Subject, scale: float) -> None:
    count = many(20, scale, 5)
    names = [f"r{index}" for index in range(count)]
    with subject.connect() as api:
        for name in names:
            create(api, name)
        subject.times("start busybox", count, lambda index: start(api, names[index]))
        path = "/1.0/instances?recursion=2"
        repeat = many(20, scale, 5)
        subject.times("list, recursion=2, running", repeat, lambda _i: api.request("GET", path))
        path = f"/1.0/instances/{names[0]}/state"
        subject.times("state of one", repeat, lambda _i: api.request("GET", path))
        own, monitors = subject.processes()
        subject.add("daemon, running: PSS", [subject.pss(own)], "MB")
        subject.add("monitor of one container: PSS", [subject.pss(monitors) / count], "MB")
        cpu = subject.idle_cpu(max(3.0, 10 * scale))
        subject.add("daemon, running: CPU", [cpu], "%")
        subject.times("stop --force", count, lambda index: stop(api, names[index]))
        for name in names:
            delete(api, name)


def _launch(subject: Subject, name: str) -> None:
    """Create and start a container over a connection of its own."""
    with subject.connect() as api:
        create(api, name)
        start(api, name)


def _remove(subject: Subject, name: str) -> None:
    """Stop and delete a container over a connection of its own."""
    with subject.connect() as api:
        stop(api, name)
        delete(api, name)


def at_once(subject: Subject, scale: float) -> None:
    for label, count, workers in (
        ("create+start, 20 at once", many(20, scale, 6), 20),
        ("launch, 2 in parallel", many(50, scale, 6), 2),
    ):
        names = [f"a{index}" for index in range(count)]
        with ThreadPoolExecutor(workers) as pool:
            began = time.perf_counter()
            list(pool.map(partial(_launch, subject), names))
            took = time.perf_counter() - began
            list(pool.map(partial(_remove, subject), names))
        subject.add(label, [count / took], "/s", smaller=False)


def _first_byte(subject: Subject, api: Connection, name: str) -> None:
    """An interactive session up to the first byte that its terminal shows."""
    body = {
        # It stays: LXD loses what a program wrote that ends before its terminal is connected.
        "command": ["/bin/sh", "-c", "echo x; sleep 1"],
        "wait-for-websocket": True,
        "interactive": True,
        "width": 80,
        "height": 25,
    }
    with subject.timing("exec interactive, first byte"):
        envelope = api.json("POST", f"/1.0/instances/{name}/exec", body)
        target = f"{envelope['operation']}/websocket?secret="
        fds = envelope["metadata"]["metadata"]["fds"]
        control = subject.websocket(target + fds["control"])
        stream = subject.websocket(target + fds["0"])
        while not stream.receive():
            pass
    control.close()
    stream.close()
    api.json("GET", f"{envelope['operation']}/wait?timeout=5")


def execs(subject: Subject, scale: float) -> None:
    with subject.connect() as api, guest(api) as name:
        path, body = f"/1.0/instances/{name}/exec", {"command": ["/bin/true"]}
        count = many(50, scale, 10)
        subject.times("exec true", count, lambda _i: api.operate("POST", path, body))
        for _ in range(many(20, scale, 5)):
            _first_byte(subject, api, name)


def files(subject: Subject, scale: float) -> None:
    big, small = random_bytes(100 << 20), random_bytes(1024)
    kind = "X-LXD-type: file\r\nContent-Type: application/octet-stream\r\n"
    with subject.connect() as api, guest(api) as name:
        path = f"/1.0/instances/{name}/files?path=/root/f"

        def push(data: bytes) -> None:
            status, answer = api.request("POST", path, data, kind)
            assert status == 200, answer

        def pull(data: bytes) -> None:
            _status, got = api.request("GET", path)
            assert got == data, f"{len(got)} bytes instead of {len(data)}"

        for label, data, count in (("1 kB", small, 30), ("100 MB", big, 5)):
            count = many(count, scale)
            subject.times(f"file push {label}", count, lambda _i, data=data: push(data))
            subject.times(f"file pull {label}", count, lambda _i, data=data: pull(data))


def snapshots(subject: Subject, scale: float) -> None:
    count = many(10, scale)
    path = "/1.0/instances/snapped"
    with subject.connect() as api:
        create(api, "snapped")
        for index in range(count):
            with subject.timing("snapshot create"):
                api.operate("POST", f"{path}/snapshots", {"name": f"s{index}"})
        newest = {"restore": f"s{count - 1}"}
        subject.times("snapshot restore", count, lambda _i: api.operate("PUT", path, newest))
        for index in range(count):
            with subject.timing("snapshot delete"):
                api.operate("DELETE", f"{path}/snapshots/s{index}")
        source = {"type": "copy", "source": "snapped"}
        for index in range(count):
            body = {"name": f"k{index}", "source": source, "profiles": [PROFILE]}
            with subject.timing("copy"):
                api.operate("POST", "/1.0/instances", body)
        for index in range(count):
            delete(api, f"k{index}")
        delete(api, "snapped")


def images(subject: Subject, scale: float) -> None:
    with subject.connect() as api:
        create(api, "source")
        body = {"source": {"type": "instance", "name": "source"}}
        for _ in range(many(3, scale, 2)):
            with subject.timing("publish busybox"):
                done = api.operate("POST", "/1.0/images", body)
            api.operate("DELETE", f"/1.0/images/{done['metadata']['fingerprint']}")
        delete(api, "source")
        for _ in range(many(3, scale, 2) if "debian" in subject.images else 0):
            target = api.get("/1.0/images/aliases/debian")["target"]
            api.operate("DELETE", f"/1.0/images/{target}")
            with subject.timing("import Debian squashfs"):
                subject.import_image(api, "debian")


def _deliveries(subject: Subject, count: int, name: str) -> None:
    """From a change to its event: on the daemon's clock, and from the request on."""
    path = f"/1.0/profiles/{PROFILE}"
    with subject.connect() as api, subject.websocket("/1.0/events?type=lifecycle") as stream:
        for index in range(count):
            body = {"description": f"{name} {index}"}
            with subject.timing(f"PATCH profile, answered and told{name}"):
                api.json("PATCH", path, body)
                event = json.loads(stream.receive())
            told = time.time()
            happened = datetime.fromisoformat(event["timestamp"]).timestamp()
            subject.add(f"event delivery{name}", [(told - happened) * 1000])
            time.sleep(0.01)


def events(subject: Subject, scale: float) -> None:
    count = many(30, scale, 10)
    _deliveries(subject, count, "")
    with load(subject.socket, "/1.0", 4):
        _deliveries(subject, count, ", under load")


def crowd(subject: Subject, scale: float) -> None:
    """What many running containers cost while nothing is asked, and how quick one of them is."""
    names = [f"c{index}" for index in range(many(100, scale, 10))]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(partial(_launch, subject), names))
    time.sleep(2)  # they have come up by then
    subject.add("daemon, 100 running: CPU", [subject.idle_cpu(max(3.0, 20 * scale))], "%")
    with subject.connect() as api:
        path, body = f"/1.0/instances/{names[0]}/exec", {"command": ["/bin/true"]}
        count = many(20, scale, 10)
        subject.times("exec true, 100 running", count, lambda _i: api.operate("POST", path, body))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(_remove, subject), names))


def debian(subject: Subject, scale: float) -> None:
    if "debian" not in subject.images:
        return
    with subject.connect() as api:
        create(api, "warm", "debian")
        delete(api, "warm")
        for index in range(many(5, scale, 2)):
            name = f"deb{index}"
            path = f"/1.0/instances/{name}"
            with subject.timing("create Debian"):
                create(api, name, "debian")
            with subject.timing("first start of Debian"):
                start(api, name)
            with subject.timing("snapshot of running Debian"):
                api.operate("POST", f"{path}/snapshots", {"name": "s"})
            with subject.timing("stop --force Debian"):
                stop(api, name)
            with subject.timing("delete Debian"):
                delete(api, name)


def debian_dir(subject: Subject, _scale: float) -> None:
    """Once a round: ext4 takes its time to remove trees as large as these."""
    if "debian" not in subject.images:
        return
    with subject.connect() as api:
        create(api, "debdir", "debian", _DIR_ROOT)
        start(api, "debdir")
        time.sleep(2)
        with subject.timing("snapshot of running Debian, dir"):
            api.operate("POST", "/1.0/instances/debdir/snapshots", {"name": "s"})
        stop(api, "debdir")
        delete(api, "debdir")


CASES: dict[str, Case] = {
    "idle": idle,
    "server": server,
    "lists": lists,
    "running": running,
    "at-once": at_once,
    "exec": execs,
    "files": files,
    "snapshots": snapshots,
    "images": images,
    "events": events,
    "crowd": crowd,
    "debian": debian,
    "debian-dir": debian_dir,
}
# As a ratio to LXD in the same run: of the cost, or of the rate where more is better.
WANTED: dict[str, float] = {
    "daemon idle: PSS": 1.2,
    "daemon idle: CPU": 1,
    "daemon, running: PSS": 1,
    "daemon, running: CPU": 1,
    "monitor of one container: PSS": 0.25,
    "GET /1.0": 0.7,
    "GET /1.0, 8 connections": 2,
    "list, recursion=1, stopped": 0.5,
    "list, recursion=2, stopped": 0.1,
    "list, recursion=2, running": 0.2,
    "create busybox": 0.5,
    "create Debian": 0.2,
    "start busybox": 0.4,
    "first start of Debian": 0.3,
    "stop --force": 0.2,
    "delete": 0.7,
    "create+start, 20 at once": 3,
    "launch, 2 in parallel": 2,
    "exec true": 1,
    "exec interactive, first byte": 0.7,
    "snapshot create": 0.5,
    "snapshot restore": 0.5,
    "snapshot delete": 0.5,
    "copy": 0.5,
    "snapshot of running Debian": 0.2,
    "snapshot of running Debian, dir": 0.7,
    "file push 100 MB": 1,
    "file pull 100 MB": 1,
    "file push 1 kB": 0.7,
    "file pull 1 kB": 0.7,
    "import Debian squashfs": 0.9,
    "publish busybox": 0.9,
    "event delivery": 1,
    "event delivery, under load": 1,
    "daemon, 100 running: CPU": 1,
    "exec true, 100 running": 1,
}
