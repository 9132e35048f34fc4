# SPDX-License-Identifier: Apache-2.0
"""One thread of random life-cycle calls; repeatable for a seed but for the timing."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from nova_lxd.tests.faults.guests import Guest
from nova_lxd.tests.functional.daemon import Daemon

FILE = "/root/pushed"
_TIMEOUT = 90


class Cut(Exception):
    """The answer was lost: the call may have happened or not."""


class Refused(Exception):
    """The daemon said that the call failed."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status} {sentence}")
        self.status = status


class Worker:
    """Works on its own guests only, so that it knows what must be true."""

    def __init__(self, daemon: Daemon, number: int, seed: str) -> None:
        self._daemon = daemon
        self._random = random.Random(seed)
        self._count = 0
        self.number = number
        self.guests = [Guest(f"w{number}{letter}") for letter in "ab"]
        self.done: Counter[str] = Counter()
        self.refusals: list[str] = []

    def reseed(self, seed: str) -> None:
        """Begin another repeatable sequence."""
        self._random.seed(seed)

    def run(self, stop: threading.Event) -> None:
        """Call after call until told to stop."""
        while not stop.is_set():
            guest = self._random.choice(self.guests)
            verb = self._random.choice(self._verbs(guest))
            name = verb.__name__.strip("_")
            try:
                verb(guest)
                self.done[name] += 1
            except Refused as exc:
                self.done[f"{name} refused"] += 1
                self.refusals.append(f"{name} {guest.name}: {exc}")
            except Cut:
                self.done[f"{name} cut"] += 1
                stop.wait(0.2)

    def _verbs(self, guest: Guest) -> list[Callable[[Guest], None]]:
        if guest.exists is None:
            return [self._look]
        if not guest.exists:
            return [self._create, self._create, self._copy]
        common = [self._snapshot, self._drop_snapshot, self._restore, self._push]
        if guest.running is None:
            return [self._stop, *common]
        if guest.running:
            return [self._stop, self._exec, self._exec, *common]
        return [self._start, self._start, self._delete, *common]

    # Calls

    def _api(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Any:
        try:
            answer = self._daemon.api(method, path, body, timeout=_TIMEOUT, **kwargs)
        except (OSError, http.client.HTTPException) as exc:
            raise Cut from exc
        if answer.status >= 400:
            raise Refused(answer.status, answer.error)
        return answer

    def _operate(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        operation = self._api(method, path, body).body["operation"]
        try:
            waited = self._api("GET", f"{operation}/wait?timeout={_TIMEOUT}")
        except Refused as exc:  # the daemon that ran it is gone
            raise Cut from exc
        done: dict[str, Any] = waited.metadata
        if done["status_code"] != 200:
            raise Refused(done["status_code"], f"{done['description']}: {done['err']}")
        return done

    def _look(self, guest: Guest) -> None:
        """After a lost answer: what is there now is what counts."""
        try:
            found = self._api("GET", f"/1.0/instances/{guest.name}").metadata
        except Refused as exc:
            if exc.status != 404:
                raise
            guest.gone()
            return
        guest.exists, guest.running = True, found["status"] == "Running"

    def _create(self, guest: Guest) -> None:
        body = {"name": guest.name, "source": {"type": "image", "alias": "busybox"}}
        self._make(guest, body, None)

    def _copy(self, guest: Guest) -> None:
        other = next(each for each in self.guests if each is not guest)
        if other.exists is not True:
            return self._create(guest)
        source = {"type": "copy", "source": other.name, "instance_only": True}
        self._make(guest, {"name": guest.name, "source": source}, other)

    def _make(self, guest: Guest, body: dict[str, Any], origin: Guest | None) -> None:
        try:
            self._operate("POST", "/1.0/instances", body)
        except Cut:
            guest.doubtful()
            raise
        guest.made()
        if origin is not None:
            guest.file = None if origin.file is None else set(origin.file)

    def _delete(self, guest: Guest) -> None:
        try:
            self._operate("DELETE", f"/1.0/instances/{guest.name}")
        except Cut:
            guest.doubtful()
            raise
        guest.gone()

    def _start(self, guest: Guest) -> None:
        self._switch(guest, {"action": "start", "timeout": 30}, True)

    def _stop(self, guest: Guest) -> None:
        self._switch(guest, {"action": "stop", "timeout": 30, "force": True}, False)

    def _switch(self, guest: Guest, body: dict[str, Any], running: bool) -> None:
        guest.running = None
        try:
            self._operate("PUT", f"/1.0/instances/{guest.name}/state", body)
        except Refused as exc:
            if "already" in str(exc):
                guest.running = running
                return
            raise
        guest.running = running

    def _exec(self, guest: Guest) -> None:
        done = self._operate(
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
        self._api("POST", path, data, headers=headers)
        guest.file = {data}

    def _snapshot(self, guest: Guest) -> None:
        self._count += 1
        name = f"s{self._count}"
        guest.snapshots[name] = None
        held = None if guest.file is None else set(guest.file)
        guest.snapshot_files[name] = held
        self._operate("POST", f"/1.0/instances/{guest.name}/snapshots", {"name": name})
        guest.snapshots[name] = True

    def _known_snapshot(self, guest: Guest) -> str | None:
        known = [name for name, there in guest.snapshots.items() if there]
        return self._random.choice(known) if known else None

    def _drop_snapshot(self, guest: Guest) -> None:
        name = self._known_snapshot(guest)
        if name is None:
            return
        guest.snapshots[name] = None
        self._operate("DELETE", f"/1.0/instances/{guest.name}/snapshots/{name}")
        del guest.snapshots[name]

    def _restore(self, guest: Guest) -> None:
        name = self._known_snapshot(guest)
        if name is None:
            return
        guest.file = None
        was, guest.running = guest.running, None
        self._operate("PUT", f"/1.0/instances/{guest.name}", {"restore": name})
        guest.running = was
        held = guest.snapshot_files[name]
        guest.file = None if held is None else set(held)
