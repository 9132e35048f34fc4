# SPDX-License-Identifier: Apache-2.0
"""The fault run on a whole cloud: servers come, change and go while parts of the host are killed.

    python3 -m nova_lxd.tests.faults.cloud --state DIR [--rounds 12] [--seed 1]

The cloud is one that ``./quickstart up`` has made.  Each round workers ask for something each, one
part is killed in their midst, and when all has come to rest an auditor compares what Nova and
Placement have recorded with the container daemon and the switch.  A build that dies with the part
may end in ERROR, as Nova documents; it may not stay half-done, be lost, or leave anything.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "tools"))

from cloud.cli import open_cloud  # noqa: E402
from openstack import exceptions  # noqa: E402

from nova_lxd.tests.cloud import audit  # noqa: E402
from nova_lxd.tests.cloud.world import World, eventually  # noqa: E402
from nova_lxd.tests.faults.cloudaudit import CloudAudit, failed  # noqa: E402
from nova_lxd.tests.faults.cloudfaults import FAULTS  # noqa: E402

_FLAVORS = ("c1.tiny", "c1.small")
# Until Nova has taken up again what a killed compute service left, its periodic tasks included.
_REST_SECONDS = 240
_AT_REST = ("ACTIVE", "SHUTOFF", "ERROR", "VERIFY_RESIZE", "PAUSED")


class Worker:
    """Asks for one thing after the other, for a server of its own."""

    def __init__(self, state: Path, number: int) -> None:
        self.world = World(state)
        self.name = f"fault-{number}"
        self.done: Counter[str] = Counter()

    def find(self) -> Any:
        return self.world.api.compute.find_server(self.name)

    def ask(self, chance: random.Random) -> None:
        """One random request that fits the server's state; a refusal is an answer, too."""
        server = self.find()
        if server is not None:
            server = self.world.api.compute.get_server(server)
        verbs = self._verbs(server)
        name = chance.choice(sorted(verbs))
        try:
            verbs[name]()
            self.done[name] += 1
        except exceptions.HttpException as exc:
            self.done[f"{name} refused ({exc.status_code})"] += 1

    def _verbs(self, server: Any) -> dict[str, Callable[[], Any]]:
        compute = self.world.api.compute
        if server is None:
            return {"create": self._create}
        verbs: dict[str, Callable[[], Any]] = {"delete": lambda: compute.delete_server(server)}
        if server.status == "ACTIVE":
            other = _FLAVORS[server.flavor["original_name"] == _FLAVORS[0]]
            verbs |= {
                "reboot soft": lambda: compute.reboot_server(server, "SOFT"),
                "reboot hard": lambda: compute.reboot_server(server, "HARD"),
                "stop": lambda: compute.stop_server(server),
                "pause": lambda: compute.pause_server(server),
                "rebuild": lambda: compute.rebuild_server(
                    server, image=self.world.image_id("busybox")
                ),
                "resize": lambda: compute.resize_server(server, compute.find_flavor(other)),
            }
        elif server.status == "SHUTOFF":
            verbs |= {"start": lambda: compute.start_server(server)}
        elif server.status == "PAUSED":
            verbs |= {"unpause": lambda: compute.unpause_server(server)}
        elif server.status == "VERIFY_RESIZE":
            verbs |= {
                "confirm": lambda: compute.confirm_server_resize(server),
                "revert": lambda: compute.revert_server_resize(server),
            }
        elif server.status == "ERROR":
            verbs = {"delete": verbs["delete"]}
        return verbs

    def _create(self) -> None:
        self.world.create(self.name, image="busybox", flavor=_FLAVORS[0])

    def at_rest(self) -> bool:
        """Is nothing at work on the server?"""
        server = self.find()
        if server is None:
            return True
        with contextlib.suppress(exceptions.NotFoundException):
            server = self.world.api.compute.get_server(server)
            if failed(server):
                return server.task_state in (None, "rebuilding")
            return server.task_state is None and server.status in _AT_REST
        return True


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(_REST_SECONDS)


class CloudRun:
    """Rounds on one cloud."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._cloud = open_cloud(args.state)
        self._seed: str = args.seed
        self.workers = [Worker(args.state, number) for number in range(args.workers)]
        self._audit = CloudAudit(args.state)

    def round(self, number: int, fault: str) -> list[str]:
        """One round; what is wrong after it."""
        chance = random.Random(f"{self._seed}/{number}")
        threads = []
        for worker in self.workers:
            own = random.Random(f"{self._seed}/{number}/{worker.name}")
            threads.append(threading.Thread(target=worker.ask, args=(own,), daemon=True))
            threads[-1].start()
        time.sleep(chance.uniform(0.2, 4.0))
        if fault == "nova-compute":
            # In its start Nova gives up what was asked of it and not yet received, but still does
            # it when the message comes: a pause leaves an ACTIVE server frozen.  Let it have all.
            _join(threads)
        FAULTS[fault](self._cloud)
        _join(threads)
        try:
            self._rest()
        except AssertionError as exc:
            return [str(exc), *self._states()]
        return self._audit.run()

    def _rest(self) -> None:
        eventually("the return of the services", 120, self._audit.services_up)
        eventually(
            "the rest of all servers", _REST_SECONDS,
            lambda: all(worker.at_rest() for worker in self.workers), pause=1,
        )  # fmt: skip

    def _states(self) -> list[str]:
        found = [worker.world.api.compute.get_server(s) for worker in self.workers
                 if (s := worker.find()) is not None]  # fmt: skip
        return [f"{s.name}: {s.status}, task {s.task_state}, host {s.hypervisor_hostname}"
                for s in found]  # fmt: skip

    def clear(self, before: audit.Inventory, state: Path) -> list[str]:
        """Delete every server; what is left then."""
        for worker in self.workers:
            worker.world.close()
        left: dict[str, list[str]] = {}

        def gone() -> bool:
            left.clear()
            left.update(audit.difference(before, audit.inventory(state)))
            return not left

        try:
            eventually("the removal of everything", 120, gone)
        except AssertionError:
            return [f"{kind} left: {names}" for kind, names in left.items()]
        return self._audit.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nova_lxd.tests.faults.cloud", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="directory of the cloud")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    return parser


def main() -> int:
    """Run the rounds; 1 when the auditor found something."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args = _parser().parse_args()
    faults = args.faults.split(",")
    order = random.Random(args.seed)
    before = audit.inventory(args.state)
    run = CloudRun(args)
    failed = 0
    for number in range(args.rounds):
        if number % len(faults) == 0:
            order.shuffle(faults)
        fault = faults[number % len(faults)]
        began = time.monotonic()
        findings = run.round(number, fault)
        failed += bool(findings)
        verdict = "FAILED" if findings else "passed"
        print(f"round {number} {fault}: {verdict}, {time.monotonic() - began:.1f} s", flush=True)
        for finding in findings:
            print(f"  {finding}", flush=True)
    left = run.clear(before, args.state)
    failed += bool(left)
    print(f"everything deleted: {'FAILED' if left else 'passed'}")
    for finding in left:
        print(f"  {finding}")
    total = sum((worker.done for worker in run.workers), Counter[str]())
    print("requests: " + ", ".join(f"{name} {count}" for name, count in sorted(total.items())))
    print(f"{args.rounds + 1 - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
