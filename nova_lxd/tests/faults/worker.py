# SPDX-License-Identifier: Apache-2.0
"""One thread of random life-cycle calls; repeatable for a seed but for the timing."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from nova_lxd.tests.faults.calls import Caller, Cut, Refused
from nova_lxd.tests.faults.guests import Guest
from nova_lxd.tests.faults.things import Images, Networks, Things, Volumes

FILE = "/root/pushed"
# The second pool, of directories; the first is btrfs.
PLAIN = "plain"
ADDRESS = "127.0.0.1:8443"
# How often a worker calls about something else than guests.
_OTHERS = 0.25


class Worker:
    """Works on its own guests only, so that it knows what must be true."""

    def __init__(self, caller: Caller, number: int, seed: str) -> None:
        self._caller = caller
        self._random = random.Random(seed)
        self._count = 0
        self.number = number
        self.guests = [Guest(f"w{number}{letter}") for letter in "ab"]
        self.images = Things(Images(self.guests), [f"image{number}"], caller)
        self.volumes = Things(Volumes(), [f"vol{number}a", f"vol{number}b"], caller)
        self.networks = Things(Networks(number), [f"flt{number}"], caller)
        self.things = [self.images, self.volumes, self.networks]
        self.done: Counter[str] = Counter()
        self.refusals: list[str] = []

    def reseed(self, seed: str) -> None:
        """Begin another repeatable sequence."""
        self._random.seed(seed)

    def run(self, stop: threading.Event) -> None:
        """Call after call until told to stop."""
        while not stop.is_set():
            name, call = self._choose()
            try:
                call()
                self.done[name] += 1
            except Refused as exc:
                self.done[f"{name} refused"] += 1
                self.refusals.append(f"{name}: {exc}")
            except Cut:
                self.done[f"{name} cut"] += 1
                stop.wait(0.2)

    def _choose(self) -> tuple[str, Callable[[], None]]:
        if self._random.random() < _OTHERS:
            return self._random.choice(self.things).step(self._random)
        guest = self._random.choice(self.guests)
        verb = self._random.choice(self._verbs(guest))
        return verb.__name__.strip("_"), lambda: verb(guest)

    def _verbs(self, guest: Guest) -> list[Callable[[Guest], None]]:
        if guest.exists is None:
            return [self._look]
        if not guest.exists:
            return [self._create, self._create, self._copy, self._migrate]
        common = [self._snapshot, self._drop_snapshot, self._restore, self._push, self._attach]
        if guest.running is None:
            return [self._stop, *common]
        if guest.running:
            return [self._stop, self._exec, self._exec, self._plug, self._limit, *common]
        return [self._start, self._start, self._delete, *common]

    # Calls

    def _look(self, guest: Guest) -> None:
        """After a lost answer: what is there now counts, once nothing is at work on it."""
        running = self._caller.found("/1.0/operations?recursion=1").get("running", ())
        if guest.deleting or any(guest.name in str(each["resources"]) for each in running):
            raise Cut
        found = self._caller.found(f"/1.0/instances/{guest.name}")
        if found is None:
            guest.gone()
            return
        guest.exists, guest.running = True, found["status"] == "Running"

    def _root(self) -> dict[str, Any]:
        """A root disk on one of the two pools."""
        if self._random.random() < 0.7:
            return {}
        return {"devices": {"root": {"type": "disk", "path": "/", "pool": PLAIN}}}

    def _create(self, guest: Guest) -> None:
        """From the common image, or from one that was published."""
        mine = [thing.name for thing in self.images.all if thing.exists]
        source = {"type": "image", "alias": self._random.choice(["busybox", *mine])}
        self._make(guest, {"name": guest.name, "source": source, **self._root()})
        if source["alias"] == "busybox":
            guest.file = {b""}

    def _origin(self, guest: Guest) -> Guest | None:
        other = next(each for each in self.guests if each is not guest)
        return other if other.exists else None

    def _copy(self, guest: Guest) -> None:
        origin = self._origin(guest)
        if origin is None:
            return self._create(guest)
        source = {"type": "copy", "source": origin.name, "instance_only": True}
        self._make(guest, {"name": guest.name, "source": source, **self._root()})
        guest.file = None if origin.file is None else set(origin.file)

    def _migrate(self, guest: Guest) -> None:
        """As between two servers, but that both are this one."""
        origin = self._origin(guest)
        if origin is None or origin.running is not False:
            return self._create(guest)
        body = {"migration": True, "instance_only": True}
        sending = self._caller.api("POST", f"/1.0/instances/{origin.name}", body).metadata
        source = {
            "type": "migration",
            "mode": "pull",
            "operation": f"https://{ADDRESS}/1.0/operations/{sending['id']}",
            "certificate": (self._caller.daemon.lxd_dir / "server.crt").read_text(),
            "secrets": sending["metadata"],
            "instance_only": True,
        }
        body = {"name": guest.name, "source": source, "profiles": ["default"], **self._root()}
        self._make(guest, body)
        guest.file = None if origin.file is None else set(origin.file)

    def _make(self, guest: Guest, body: dict[str, Any]) -> None:
        try:
            self._caller.operate("POST", "/1.0/instances", body)
        except Cut:
            guest.doubtful()
            raise
        guest.made()
        guest.file = None

    def _attach(self, guest: Guest) -> None:
        """Attach a volume, or detach what is attached."""
        there = [thing.name for thing in self.volumes.all if thing.exists]
        disk = {"type": "none"}
        if there and self._random.random() < 0.5:
            disk = {"type": "disk", "pool": "default", "path": "/mnt", "source": there[0]}
        self._patch(guest, {"devices": {"data": disk}})

    def _plug(self, guest: Guest) -> None:
        """Give it a second nic, or take that away."""
        nic = {"type": "none"}
        if self._random.random() < 0.5:
            nic = {"type": "nic", "network": "lxdbr0"}
        self._patch(guest, {"devices": {"second": nic}})

    def _limit(self, guest: Guest) -> None:
        """Another limit on its processes."""
        self._patch(guest, {"config": {"limits.processes": str(self._random.randint(50, 500))}})

    def _patch(self, guest: Guest, body: dict[str, Any]) -> None:
        self._caller.api("PATCH", f"/1.0/instances/{guest.name}", body)

    def _delete(self, guest: Guest) -> None:
        try:
            self._caller.operate("DELETE", f"/1.0/instances/{guest.name}")
        except (Cut, Refused):
            guest.doubtful()
            guest.deleting = True
            raise
        guest.gone()

    def _start(self, guest: Guest) -> None:
        self._switch(guest, {"action": "start", "timeout": 30}, True)

    def _stop(self, guest: Guest) -> None:
        self._switch(guest, {"action": "stop", "timeout": 30, "force": True}, False)

    def _switch(self, guest: Guest, body: dict[str, Any], running: bool) -> None:
        guest.running = None
        try:
            self._caller.operate("PUT", f"/1.0/instances/{guest.name}/state", body)
        except Refused as exc:
            if "already" in str(exc):
                guest.running = running
                return
            raise
        guest.running = running

    def _exec(self, guest: Guest) -> None:
        done = self._caller.operate(
            "POST", f"/1.0/instances/{guest.name}/exec", {"command": ["/bin/true"]}
        )
        code = done["metadata"]["return"]
        if code != 0:
            raise Refused(0, f"/bin/true ended with {code}")

    def _push(self, guest: Guest) -> None:
        data = f"{guest.name} {self._random.random()}".encode()
        guest.file = None
        headers = {"X-LXD-type": "file", "Content-Type": "application/octet-stream"}
        path = f"/1.0/instances/{guest.name}/files?path={FILE}"
        self._caller.api("POST", path, data, headers=headers)
        guest.file = {data}

    def _snapshot(self, guest: Guest) -> None:
        self._count += 1
        name = f"s{self._count}"
        guest.snapshots[name] = None
        held = None if guest.file is None else set(guest.file)
        guest.snapshot_files[name] = held
        self._caller.operate("POST", f"/1.0/instances/{guest.name}/snapshots", {"name": name})
        guest.snapshots[name] = True

    def _known_snapshot(self, guest: Guest) -> str | None:
        known = [name for name, there in guest.snapshots.items() if there]
        return self._random.choice(known) if known else None

    def _drop_snapshot(self, guest: Guest) -> None:
        name = self._known_snapshot(guest)
        if name is None:
            return
        guest.snapshots[name] = None
        self._caller.operate("DELETE", f"/1.0/instances/{guest.name}/snapshots/{name}")
        del guest.snapshots[name]

    def _restore(self, guest: Guest) -> None:
        name = self._known_snapshot(guest)
        if name is None:
            return
        guest.file = None
        was, guest.running = guest.running, None
        self._caller.operate("PUT", f"/1.0/instances/{guest.name}", {"restore": name})
        guest.running = was
        held = guest.snapshot_files[name]
        guest.file = None if held is None else set(held)
