# SPDX-License-Identifier: Apache-2.0
"""The fault run.

Each round lets workers call at random, injects one fault in their midst, restarts everything and
has the auditor compare.  The same seed makes the same calls; only the timing differs.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from nova_lxd.tests.faults.audit import Audit
from nova_lxd.tests.faults.calls import Caller
from nova_lxd.tests.faults.follower import Follower
from nova_lxd.tests.faults.injectors import INJECTORS, POOL, Subject
from nova_lxd.tests.faults.worker import ADDRESS, PLAIN, Worker
from nova_lxd.tests.functional.conftest import build_image
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.fuzz.proxy import Proxy

_POOL_SIZE = "512MiB"
_JOIN_SECONDS = 120.0


def furnish(daemon: Daemon) -> None:
    """A small btrfs pool that can be filled, one of directories, a bridge, and the busybox image.

    It listens to itself, too: for migrations.
    """
    daemon.lxc("config", "set", "core.https_address", ADDRESS)
    daemon.lxc("storage", "create", POOL, "btrfs", f"size={_POOL_SIZE}")
    daemon.lxc("storage", "create", PLAIN, "dir")
    daemon.lxc("network", "create", "lxdbr0", "ipv4.address=10.78.0.1/24", "ipv6.address=none")
    daemon.lxc("profile", "device", "add", "default", "root", "disk", "path=/", f"pool={POOL}")
    daemon.lxc("profile", "device", "add", "default", "eth0", "nic", "network=lxdbr0")
    split = build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
    daemon.lxc("image", "import", *map(str, split), "--alias", "busybox")


class Run:
    """Rounds on one daemon."""

    def __init__(
        self, daemon: Subject, way: Path, follower: Follower, args: argparse.Namespace
    ) -> None:
        self._daemon = daemon
        self._follower = follower
        self._seed: str = args.seed
        self._seconds: float = args.seconds
        caller = Caller(daemon, way)
        self.workers = [Worker(caller, number, args.seed) for number in range(args.workers)]

    def round(self, number: int, fault: str) -> list[str]:
        """One round; what is wrong after it."""
        chance = random.Random(f"{self._seed}/{number}")
        stop = threading.Event()
        threads = []
        for worker in self.workers:
            worker.reseed(f"{self._seed}/{number}/{worker.number}")
            threads.append(threading.Thread(target=worker.run, args=(stop,), daemon=True))
            threads[-1].start()
        time.sleep(chance.uniform(0.3, 0.7) * self._seconds)
        pid = self._daemon.pid
        undo = INJECTORS[fault](self._daemon, chance)
        if fault == "daemon":
            self._daemon.start()
        time.sleep(0.3 * self._seconds)
        stop.set()
        undo()
        for thread in threads:
            thread.join(_JOIN_SECONDS)
        if any(thread.is_alive() for thread in threads):
            return ["a call did not return"]
        if fault != "daemon" and self._daemon.pid != pid:
            return ["the daemon died"]
        if fault == "monitor":
            self._forget_running()
        self._daemon.restart()
        return self._audit()

    def _audit(self) -> list[str]:
        guests = [guest for worker in self.workers for guest in worker.guests]
        findings = Audit(self._daemon, guests, self._follower).run()
        for worker in self.workers:
            for things in worker.things:
                findings += things.audit()
        return findings

    def _forget_running(self) -> None:
        """A guest whose monitor was killed may be let run or be ended: the daemon decides."""
        for worker in self.workers:
            for guest in worker.guests:
                guest.running = None

    def clear(self) -> list[str]:
        """Delete every guest; what is left then."""
        for worker in self.workers:
            for guest in worker.guests:
                self._daemon.lxc("delete", "--force", guest.name, check=guest.exists is True)
                guest.gone()
            for things in worker.things:
                things.clear()
        return self._audit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nova_lxd.tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", default="1", help="the same seed makes the same calls")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a round calls")
    parser.add_argument("--faults", default=",".join(INJECTORS), help=f"of {', '.join(INJECTORS)}")
    parser.add_argument("--log", type=Path, help="keep the daemon's log here")
    return parser


def _report(workers: list[Worker]) -> None:
    total: Counter[str] = Counter()
    refusals: list[str] = []
    for worker in workers:
        total += worker.done
        refusals += worker.refusals
    print("calls: " + ", ".join(f"{name} {count}" for name, count in sorted(total.items())))
    shown = Counter(line.split(": ", 1)[1] for line in refusals)
    for sentence, count in shown.most_common(12):
        print(f"  refused {count}x: {sentence[:220]}")


def rounds(run: Run, args: argparse.Namespace) -> int:
    """All rounds, then the end of everything; how many of these failed."""
    faults = args.faults.split(",")
    order = random.Random(args.seed)
    failed = 0
    for number in range(args.rounds):
        # Each fault once before any comes again.
        if number % len(faults) == 0:
            order.shuffle(faults)
        fault = faults[number % len(faults)]
        began = time.monotonic()
        findings = run.round(number, fault)
        failed += bool(findings)
        verdict = "FAILED" if findings else "passed"
        print(f"round {number} {fault}: {verdict}, {time.monotonic() - began:.1f} s")
        for finding in findings:
            print(f"  {finding}", flush=True)
    left = run.clear()
    print(f"everything deleted: {'FAILED' if left else 'passed'}")
    for finding in left:
        print(f"  {finding}")
    return failed + bool(left)


def main() -> int:
    """Run the rounds; 1 when the auditor found something."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that daemons are removed
    args = _parser().parse_args()
    with Subject("bundled", "faults") as daemon:
        way = daemon.home / "way"
        try:
            furnish(daemon)
            with Proxy(daemon.socket, way) as daemon.way, Follower(way) as follower:
                run = Run(daemon, way, follower, args)
                failed = rounds(run, args)
                _report(run.workers)
                print(f"events: {follower.events} in {follower.streams} streams")
        finally:
            if args.log:
                args.log.write_bytes(daemon.log.read_bytes())
    print(f"{args.rounds + 1 - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
