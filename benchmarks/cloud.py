# SPDX-License-Identifier: Apache-2.0
"""What a server costs on a running cloud of ./quickstart, beside nova's fake driver.

    python3 -m benchmarks.cloud --state DIR                     single servers, 10 in one request
    python3 -m benchmarks.cloud --state DIR --at-once 50 --many 200 --json c.json --rst c.inc

Run it with the cloud's Python, on a cloud of ``./quickstart up --pool btrfs`` as a site would have
it (a dir pool unpacks the image for each server).  The driver's own share is from nova-compute's
call of spawn to its return less the waits for Neutron, as the driver logs it; "to ACTIVE" is what
a user sees.  The fake driver runs in a nova-compute of its own, which is there for the time of the
measurement.
It ends with "N passed, N failed, N skipped"; no time fails it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from openstack import exceptions

from benchmarks import report
from benchmarks.cloudhosts import ComputeLog, FakeHost, cpu_seconds, daemon_calls
from nova_lxd.tests.cloud.world import World, eventually

WANTED = {"busybox": 0.4, "debian": 0.6}
_FLAVOR = "benchmark"
_MEMORY = {"busybox": 64, "debian": 256}  # MiB: the least that the images ask for
_NO_IMAGE = "benchmark-nothing"
_MICROVERSION = "2.90"
_PERIOD = 130.0  # seconds: two rounds of the tasks that nova-compute runs every minute
_PATIENCE = 900
_LXD = re.compile(r"\[instance: ([0-9a-f-]{36})\] Spawned in ([\d.]+) s, ([\d.]+) s of it")
_ANY = re.compile(r"\[instance: ([0-9a-f-]{36})\] Took ([\d.]+) seconds to spawn the instance")


@dataclass
class Row:
    """One line of the table, its samples in ``unit``."""

    name: str
    unit: str
    samples: list[float]
    wanted: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass
class Bench:
    """A cloud under measurement."""

    world: World
    admin: World
    log: ComputeLog
    flavors: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, unit: str, samples: list[float], wanted: float | None = None) -> None:
        """Record and tell."""
        row = Row(name, unit, samples, wanted)
        self.rows.append(row)
        print(f"{row.name}: {row.median:.2f} {unit} (of {len(samples)})", flush=True)

    def request(self, name: str, count: int = 1, **wishes: Any) -> list[Any]:
        """Ask for servers in one request; those of that name.  On a ``host`` only admin may."""
        wishes.setdefault("networks", [{"uuid": self._network()}])
        api = (self.admin if "host" in wishes else self.world).api.compute
        image = wishes.pop("image", "busybox")
        flavor = self.flavors.get(image, self.flavors["busybox"])
        api.create_server(
            name=name, image_id=self._image(image), flavor_id=flavor.id,
            min_count=count, max_count=count, **wishes,
        )  # fmt: skip
        return list(api.servers(details=False, name=f"^{name}"))

    def _image(self, name: str) -> str:
        found = self.admin.api.image.find_image(name, ignore_missing=False)
        return str(found.id)

    def _network(self) -> str:
        """The network of this user's project that servers can be put in."""
        found = self.world.api.network.find_network("private", ignore_missing=False)
        return str(found.id)

    def servers(self, name: str, **details: Any) -> list[Any]:
        """The servers of that name, both users'."""
        apis = (self.world.api.compute, self.admin.api.compute)
        return [each for api in apis for each in api.servers(name=f"^{name}", **details)]

    def wait_active(self, name: str, count: int) -> None:
        """Until all servers of that name are ACTIVE; AssertionError when one fails."""

        def all_active() -> bool:
            found = self.servers(name, details=True)
            failed = [each.fault for each in found if each.status == "ERROR"]
            assert not failed, f"{len(failed)} servers failed: {failed[0]}"
            return len(found) == count and all(each.status == "ACTIVE" for each in found)

        eventually(f"{count} ACTIVE servers", _PATIENCE, all_active, pause=0.1)

    @contextlib.contextmanager
    def removed(self, name: str) -> Iterator[None]:
        """Delete the servers of that name after the block, and record nothing."""
        try:
            yield
        finally:
            self.delete(name)

    def delete(self, name: str) -> None:
        for server in self.servers(name, details=False):
            self.admin.api.compute.delete_server(server, ignore_missing=True)
        eventually(
            "the servers' end", _PATIENCE, lambda: not self.servers(name, details=False), pause=0.1
        )


def single(bench: Bench, image: str, rounds: int) -> None:
    """One server after the other, of an image that the host has already."""
    total, own, waits = [], [], []
    for index in range(rounds + 1):
        name = f"bench-{image}"
        with bench.removed(name):
            began = time.monotonic()
            servers = bench.request(name, image=image)
            bench.wait_active(name, 1)
            took = time.monotonic() - began
            spawned, waited = bench.log.matches(_LXD, {servers[0].id})[servers[0].id]
        if index:  # the first one may fetch the image
            total.append(took)
            own.append(spawned - waited)
            waits.append(waited)
    bench.add(f"{image}: driver's own share", "s", own, WANTED[image])
    bench.add(f"{image}: wait for Neutron", "s", waits)
    bench.add(f"{image}: request to ACTIVE", "s", total)


def fake(bench: Bench, state: Path, rounds: int) -> None:
    """The same with nova's fake driver, without a port: no agent would wire it."""
    total, own = [], []
    with _no_image(bench), _forgotten(bench), FakeHost(state) as host:
        _wait_for_host(bench, host.name)
        for _ in range(rounds):
            with bench.removed("bench-fake"):
                began = time.monotonic()
                servers = _request_fake(bench, host.name)
                bench.wait_active("bench-fake", 1)
                total.append(time.monotonic() - began)
                own.append(host.log.matches(_ANY, {servers[0].id})[servers[0].id][0])
    bench.add("nova's fake driver: spawn", "s", own)
    bench.add("nova's fake driver: request to ACTIVE, no port", "s", total)


def _request_fake(bench: Bench, host: str) -> list[Any]:
    return bench.request("bench-fake", image=_NO_IMAGE, networks="none", host=host)


@contextlib.contextmanager
def _no_image(bench: Bench) -> Iterator[None]:
    """An image that, unlike those of containers, names no hypervisor: the fake one is none."""
    api = bench.admin.api.image
    image = api.create_image(
        _NO_IMAGE, data=b"\0" * 512, disk_format="raw", container_format="bare"
    )
    try:
        yield
    finally:
        api.delete_image(image)


@contextlib.contextmanager
def _forgotten(bench: Bench) -> Iterator[None]:
    """After the block let Nova and Placement forget the fake host."""
    compute = bench.admin.api.compute
    try:
        yield
    finally:
        for service in compute.services(binary="nova-compute", host=FakeHost.name):
            compute.delete_service(service)


def _wait_for_host(bench: Bench, name: str) -> None:
    def mapped() -> bool:
        try:
            _request_fake(bench, name)
        except exceptions.BadRequestException:
            return False  # the scheduler looks for new hosts twice a minute
        return True

    with bench.removed("bench-fake"):
        eventually("the fake host's discovery", 120, mapped, pause=3)


def at_once(bench: Bench, count: int) -> None:
    """Many servers in one request."""
    with bench.removed("bench-many"):
        began = time.monotonic()
        servers = bench.request("bench-many", count)
        bench.wait_active("bench-many", count)
        took = time.monotonic() - began
        found = bench.log.matches(_LXD, {each.id for each in servers})
        began = time.monotonic()
        bench.delete("bench-many")
        gone = time.monotonic() - began
    bench.add(f"{count} in one request: to all ACTIVE", "s", [took])
    own = [spawned - waited for spawned, waited in found.values()]
    bench.add(f"{count} in one request: driver's own share", "s", own)
    bench.add(f"{count} deleted: until all are gone", "s", [gone])


def many(bench: Bench, count: int, state: Path) -> None:
    """What nova-compute and the daemon do by themselves with many servers on one host."""
    step = 50
    with bench.removed("bench-hold"):
        for first in range(0, count, step):
            bench.request(f"bench-hold-{first}", min(step, count - first))
            bench.wait_active(f"bench-hold-{first}", min(step, count - first))
        periodic(bench, f"{count} servers", state)


def periodic(bench: Bench, what: str, state: Path) -> None:
    """CPU and calls over two rounds of the periodic tasks, in shares of a minute."""
    minutes = _PERIOD / 60
    before = cpu_seconds(state)
    calls = daemon_calls(state, _PERIOD)
    after = cpu_seconds(state)
    for name, seconds in after.items():
        bench.add(f"{what}: {name}, CPU per minute", "s", [(seconds - before[name]) / minutes])
    if calls is not None:
        bench.add(f"{what}: LXD API calls per minute", "", [calls / minutes])


def rst(rows: list[Row]) -> str:
    """The table for the documentation."""
    cells = [["what", "unit", "samples", "median", "wanted", "met"]]
    for row in rows:
        wanted = ["", ""]
        if row.wanted is not None:
            wanted = [f"≤ {row.wanted:g}", "yes" if row.median <= row.wanted else "NO"]
        cells.append([row.name, row.unit, str(len(row.samples)), f"{row.median:.2f}", *wanted])
    return report.list_table(cells)


@contextlib.contextmanager
def bench(state: Path) -> Iterator[Bench]:
    """User demo without quota, and flavors that take no processors and no disk."""
    with contextlib.ExitStack() as undo:
        world, admin = World(state), World(state, "admin")
        undo.callback(world.close)
        undo.callback(admin.close)
        compute, network = admin.api.compute, admin.api.network
        flavors = {}
        for image, ram in _MEMORY.items():
            flavor = compute.create_flavor(name=f"{_FLAVOR}-{image}", ram=ram, vcpus=1, disk=1)
            undo.callback(compute.delete_flavor, flavor)
            extra = {"resources:VCPU": "0", "resources:DISK_GB": "0"}
            compute.create_flavor_extra_specs(flavor, extra)
            flavors[image] = flavor
        project = world.api.current_project_id
        compute.update_quota_set(project, instances=-1, cores=-1, ram=-1)
        undo.callback(compute.revert_quota_set, project)
        network.update_quota(project, ports=-1)
        undo.callback(network.delete_quota, project)
        for each in (world, admin):
            each.api.compute.default_microversion = _MICROVERSION
        yield Bench(world, admin, ComputeLog(state / "log/nova-compute.log"), flavors)


def chosen(found: Bench, args: argparse.Namespace) -> list[Callable[[], None]]:
    """The parts that are asked for, in their order."""
    state, wanted = args.state.resolve(), args.parts.split(",")
    parts: list[Callable[[], None]] = []
    if "single" in wanted:
        parts += [partial(single, found, image, args.rounds) for image in args.images.split(",")]
    if "fake" in wanted:
        parts.append(partial(fake, found, state, args.rounds))
    if "at-once" in wanted:
        parts.append(partial(at_once, found, args.at_once))
    if args.many:
        parts.append(partial(periodic, found, "no server", state))
        parts.append(partial(many, found, args.many, state))
    return parts


def main() -> int:
    """Run it; 1 when a part failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are removed
    parser = argparse.ArgumentParser(
        prog="benchmarks.cloud",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, required=True, help="the cloud's directory")
    parser.add_argument("--parts", default="single,fake,at-once")
    parser.add_argument("--images", default="busybox,debian")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=10, help="servers in one request")
    parser.add_argument("--many", type=int, default=0, help="servers to hold for periodic tasks")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rst", type=Path)
    args = parser.parse_args()
    passed = failed = 0
    with bench(args.state.resolve()) as found:
        for part in chosen(found, args):
            try:
                part()
                passed += 1
            except (AssertionError, exceptions.SDKException, OSError) as exc:
                failed += 1
                print(f"FAILED {type(exc).__name__}: {exc}", file=sys.stderr)
    if args.json:
        data = [vars(row) | {"median": row.median} for row in found.rows]
        args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if args.rst:
        args.rst.write_text(rst(found.rows), encoding="utf-8")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
