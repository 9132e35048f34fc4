# SPDX-License-Identifier: Apache-2.0
"""Cost against count: launch N containers on the bundled daemon and measure on the way.

    python3 -m benchmarks.scale --count 200 --json s.json --svg s.svg --rst s.inc
    python3 -m benchmarks.scale --count 100 --image debian

They are spread over bridges, as LXD's default subnet, a /24, has room for 253: with --per-bridge
1000 all are on one, and each broadcast of a guest's boot is for all of them.

Prints the rates of launches, list and state latency, memory, the time of a restart with all of
them running, and of stopping and deleting them; ends with "N passed, N failed, N skipped".  The
checks: none is lost by the restart, and all go at the end; no time fails it.

Many containers meet limits of the host that are its administrator's to raise; the run says so
before it begins.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cases import create, delete, start, stop
from benchmarks.client import Connection
from benchmarks.compare import images
from benchmarks.subject import Subject
from nova_lxd.tests.functional.daemon import BACKENDS, Daemon

_PROC_SYS = Path("/proc/sys")
# What systemd takes of the host's limits in each container, with some air.
_TAKEN_BY_SYSTEMD = {
    "fs.inotify.max_user_instances": 6,
    "kernel.keys.maxkeys": 20,
    "kernel.keys.maxbytes": 400,
}
_WORKERS = 2
_PER_BRIDGE = 250
_REPEAT = 5
_SERIES = {
    "launch ms": "#47a",
    "list recursion=2 ms": "#b65",
    "state ms": "#595",
    "PSS MB": "#a4a",
}
_WIDTH, _HEIGHT, _MARGIN = 640, 320, 50

Point = dict[str, float]


def _median_ms(subject: Subject, path: str) -> float:
    samples = []
    with subject.connect() as api:
        for _ in range(_REPEAT):
            began = time.perf_counter()
            api.request("GET", path)
            samples.append((time.perf_counter() - began) * 1000)
    return statistics.median(samples)


def stages(count: int) -> list[tuple[int, int]]:
    """From where to where to launch between two looks: a hundredth, then up to every tenth."""
    ends = sorted({max(1, count // 100), *(max(1, count * tenth // 10) for tenth in range(1, 11))})
    return list(pairwise([0, *ends]))


def make_bridges(subject: Subject, count: int, per_bridge: int) -> list[dict[str, Any]]:
    """Networks for so many containers; for each the devices that put an instance into it."""
    devices = []
    with subject.connect() as api:
        for number in range(-(-count // per_bridge)):
            name = f"scalebr{number}"
            config = {"ipv4.address": f"10.{192 + number}.0.1/16", "ipv6.address": "none"}
            api.json("POST", "/1.0/networks", {"name": name, "config": config})
            devices.append({"eth0": {"type": "nic", "network": name, "name": "eth0"}})
    return devices


def launch(
    subject: Subject, first: int, last: int, image: str, nics: Sequence[dict[str, Any]]
) -> list[float]:
    """Create and start containers, two at a time, on each bridge in turn; milliseconds of each."""

    def one(index: int) -> float:
        began = time.perf_counter()
        with subject.connect() as api:
            create(api, f"n{index}", image, nics[index % len(nics)])
            start(api, f"n{index}")
        return (time.perf_counter() - began) * 1000

    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(one, range(first, last)))


def look(subject: Subject, count: int, launched: Sequence[float]) -> Point:
    """What things cost with ``count`` running."""
    own, monitors = subject.processes()
    return {
        "count": count,
        "launch ms": statistics.median(launched),
        "list recursion=2 ms": _median_ms(subject, "/1.0/instances?recursion=2"),
        "state ms": _median_ms(subject, "/1.0/instances/n0/state"),
        "PSS MB": subject.pss(own),
        "monitor MB": subject.pss(monitors) / max(1, len(monitors)),
        "idle CPU %": subject.idle_cpu(2),
    }


def running(subject: Subject) -> list[str]:
    """The names of those that run."""
    with subject.connect() as api:
        found = api.get("/1.0/instances?recursion=1")
    return [each["name"] for each in found if each["status"] == "Running"]


def all_of(
    subject: Subject, names: Sequence[str], verb: Callable[[Connection, str], None]
) -> float:
    """Do something to all, eight at a time; seconds."""

    def one(name: str) -> None:
        with subject.connect() as api:
            verb(api, name)

    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, names))
    return time.perf_counter() - began


def chart(points: Sequence[Point]) -> str:
    """An SVG: each series in percent of its own maximum against the count."""
    most = max(point["count"] for point in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_MARGIN}" y="{_HEIGHT - 8}">running containers, to {most:g}</text>',
    ]
    wide, high = _WIDTH - 5 * _MARGIN, _HEIGHT - 2 * _MARGIN
    for index, (name, colour) in enumerate(_SERIES.items()):
        top = max(point[name] for point in points) or 1
        places = [
            f"{_MARGIN + point['count'] / most * wide:.0f},"
            f"{_MARGIN + high - point[name] / top * high:.0f}"
            for point in points
        ]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" points="{" ".join(places)}"/>'
            f'<text x="{_MARGIN + wide + 10}" y="{_MARGIN + 20 * index}" fill="{colour}">'
            f"{name}, most {top:.1f}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


@dataclass
class Outcome:
    """What a whole run told."""

    points: list[Point] = field(default_factory=list)
    launched: list[float] = field(default_factory=list)
    image: str = "busybox"
    bridges: int = 1
    restart: float = 0.0
    ran: int = 0
    survived: int = 0
    stopping: float = 0.0
    deleting: float = 0.0
    left: int = 0

    @property
    def slowdown(self) -> float:
        """The last tenth of the launches against the first."""
        tenth = max(1, len(self.launched) // 10)
        first, last = self.launched[:tenth], self.launched[-tenth:]
        return statistics.median(last) / statistics.median(first)

    def to_json(self) -> dict[str, Any]:
        """Everything, machine-readable."""
        return {
            "machine": report.machine(),
            "bridges": self.bridges,
            "points": self.points,
            "restart_s": self.restart,
            "stop_s": self.stopping,
            "delete_s": self.deleting,
            "slowdown": self.slowdown,
        }


def told(outcome: Outcome, count: int) -> str:
    """The end of the run in words."""
    bridges = "one bridge" if outcome.bridges == 1 else f"{outcome.bridges} bridges"
    words = (
        f"On {bridges}, a restart of the daemon with {outcome.survived} running takes "
        f"{outcome.restart:.1f} s. They are stopped in {outcome.stopping:.1f} s "
        f"({count / outcome.stopping:.0f} per second) and deleted in {outcome.deleting:.1f} s "
        f"({count / outcome.deleting:.0f} per second)."
    )
    if outcome.image != "busybox":  # their boots, which go on behind, take every processor
        return words
    return (
        f"{words} The last launches take {outcome.slowdown:.2f} times as long as the first "
        "(wanted: at most 1.5)."
    )


def rst(outcome: Outcome, count: int) -> str:
    """Table and words for the documentation."""
    names = list(outcome.points[0])
    cells = [names, *([f"{point[name]:.4g}" for name in names] for point in outcome.points)]
    return f"{report.list_table(cells)}\n{told(outcome, count)}\n"


def _inotify_in_use() -> int:
    """How many inotify instances the processes of this host have: root's containers share them."""
    count = 0
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            count += os.readlink(link) == "anon_inode:inotify"
        except OSError:  # it has ended
            continue
    return count


def too_low(count: int, image: str) -> list[str]:
    """The settings of the host that do not do for so many containers, as sysctl(8) takes them."""
    if image == "busybox":
        return []
    wanted = {name: each * count for name, each in _TAKEN_BY_SYSTEMD.items()}
    wanted["fs.inotify.max_user_instances"] += _inotify_in_use()
    return [
        f"{name}={least}"
        for name, least in wanted.items()
        if int((_PROC_SYS / name.replace(".", "/")).read_text(encoding="ascii")) < least
    ]


def measure(daemon: Daemon, count: int, image: str, per_bridge: int) -> Outcome:
    """Launch, restart, stop, delete."""
    outcome = Outcome(image=image)
    subject = Subject(daemon.socket, images(debian=image == "debian"))
    subject.furnish()
    nics = make_bridges(subject, count, per_bridge)
    outcome.bridges = len(nics)
    for first, last in stages(count):
        part = launch(subject, first, last, image, nics)
        outcome.launched += part
        outcome.points.append(look(subject, len(outcome.launched), part))
        now = outcome.points[-1].items()
        print(", ".join(f"{name} {value:.1f}" for name, value in now), flush=True)
    outcome.ran = len(running(subject))
    began = time.perf_counter()
    daemon.restart()
    outcome.restart = time.perf_counter() - began
    survivors = running(subject)
    outcome.survived = len(survivors)
    outcome.stopping = all_of(subject, survivors, stop)
    outcome.deleting = all_of(subject, [f"n{index}" for index in range(count)], delete)
    with subject.connect() as api:
        outcome.left = len(api.get("/1.0/instances"))
    return outcome


def main() -> int:
    """Run it; 1 when a check failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that daemons are removed
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--backend", choices=BACKENDS, default="bundled")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--rst", type=Path)
    parser.add_argument("--image", choices=("busybox", "debian"), default="busybox")
    parser.add_argument("--per-bridge", type=int, default=_PER_BRIDGE)
    args = parser.parse_args()
    if missing := too_low(args.count, args.image):
        parser.error(
            f"{args.count} containers of {args.image} meet limits of this host; raise them by "
            f"sysctl -w {' '.join(missing)}"
        )
    with Daemon(args.backend, "scale") as daemon:
        outcome = measure(daemon, args.count, args.image, args.per_bridge)
    print(told(outcome, args.count))
    checks = [outcome.ran == args.count, outcome.survived == outcome.ran, not outcome.left]
    if args.json:
        args.json.write_text(json.dumps(outcome.to_json(), indent=1) + "\n", encoding="utf-8")
    if args.svg:
        args.svg.write_text(chart(outcome.points), encoding="utf-8")
    if args.rst:
        args.rst.write_text(rst(outcome, args.count), encoding="utf-8")
    print(f"{sum(checks)} passed, {len(checks) - sum(checks)} failed, 0 skipped")
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
