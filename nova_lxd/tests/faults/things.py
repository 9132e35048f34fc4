# SPDX-License-Identifier: Apache-2.0
"""What a worker makes beside guests: custom volumes, networks and images.

Each has a value that can be changed (a description, an address, a property), so that an
acknowledged change that is lost is seen.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nova_lxd.tests.faults.calls import Caller, Cut, Refused
from nova_lxd.tests.faults.guests import Guest

POOL = "default"
_PAUSE = 0.1


@dataclass
class Thing:
    """One name: None for ``exists`` means that only the daemon knows; ``values`` may be true."""

    name: str
    exists: bool | None = False
    values: frozenset[str] = frozenset()


class Kind(ABC):
    """How one kind of thing is made, changed, read and removed."""

    noun = ""

    @abstractmethod
    def value(self, chance: random.Random) -> str:
        """A new value."""

    @abstractmethod
    def create(self, caller: Caller, name: str, value: str) -> None: ...

    @abstractmethod
    def change(self, caller: Caller, name: str, value: str) -> None: ...

    @abstractmethod
    def delete(self, caller: Caller, name: str) -> None: ...

    @abstractmethod
    def read(self, caller: Caller, name: str) -> str | None:
        """The value, None when there is no such thing."""


class Volumes(Kind):
    """Custom volumes with their descriptions."""

    noun = "volume"
    path = f"/1.0/storage-pools/{POOL}/volumes/custom"

    def value(self, chance: random.Random) -> str:
        return f"description {chance.randrange(10**6)}"

    def create(self, caller: Caller, name: str, value: str) -> None:
        caller.api("POST", self.path, {"name": name, "description": value, "config": {}})

    def change(self, caller: Caller, name: str, value: str) -> None:
        caller.api("PATCH", f"{self.path}/{name}", {"description": value})

    def delete(self, caller: Caller, name: str) -> None:
        caller.api("DELETE", f"{self.path}/{name}")

    def read(self, caller: Caller, name: str) -> str | None:
        found = caller.found(f"{self.path}/{name}")
        return None if found is None else str(found["description"])


class Networks(Kind):
    """Managed bridges with their addresses.

    :param number: the worker's, for addresses of its own.
    """

    noun = "network"

    def __init__(self, number: int) -> None:
        self._number = number

    def value(self, chance: random.Random) -> str:
        return f"10.{90 + self._number}.{chance.randrange(250)}.1/24"

    def create(self, caller: Caller, name: str, value: str) -> None:
        config = {"ipv4.address": value, "ipv6.address": "none"}
        caller.api("POST", "/1.0/networks", {"name": name, "type": "bridge", "config": config})

    def change(self, caller: Caller, name: str, value: str) -> None:
        caller.api("PATCH", f"/1.0/networks/{name}", {"config": {"ipv4.address": value}})

    def delete(self, caller: Caller, name: str) -> None:
        caller.api("DELETE", f"/1.0/networks/{name}")

    def read(self, caller: Caller, name: str) -> str | None:
        found = caller.found(f"/1.0/networks/{name}")
        return None if found is None else str(found["config"]["ipv4.address"])


class Images(Kind):
    """Images made of a stopped guest, known by an alias, with a property.

    :param guests: the worker's own.
    """

    noun = "image"

    def __init__(self, guests: list[Guest]) -> None:
        self._guests = guests

    def value(self, chance: random.Random) -> str:
        return f"property {chance.randrange(10**6)}"

    def create(self, caller: Caller, name: str, value: str) -> None:
        stopped = [g for g in self._guests if g.exists and g.running is False]
        if not stopped:
            raise Refused(0, "there is no stopped guest to publish")
        body = {
            "source": {"type": "instance", "name": stopped[0].name},
            "aliases": [{"name": name}],
            "properties": {"mark": value},
            "compression_algorithm": "none",
        }
        caller.operate("POST", "/1.0/images", body)

    def _found(self, caller: Caller, name: str) -> Any:
        alias = caller.found(f"/1.0/images/aliases/{name}")
        return None if alias is None else caller.found(f"/1.0/images/{alias['target']}")

    def _path(self, caller: Caller, name: str) -> str:
        found = self._found(caller, name)
        if found is None:
            raise Refused(404, f"image {name} is not there")
        return f"/1.0/images/{found['fingerprint']}"

    def change(self, caller: Caller, name: str, value: str) -> None:
        caller.api("PATCH", self._path(caller, name), {"properties": {"mark": value}})

    def delete(self, caller: Caller, name: str) -> None:
        caller.operate("DELETE", self._path(caller, name))

    def read(self, caller: Caller, name: str) -> str | None:
        found = self._found(caller, name)
        return None if found is None else str(found["properties"].get("mark"))


class Things:
    """The things of one kind that one worker works on."""

    def __init__(self, kind: Kind, names: list[str], caller: Caller) -> None:
        self.kind = kind
        self.all = [Thing(name) for name in names]
        self._caller = caller

    def step(self, chance: random.Random) -> tuple[str, Callable[[], None]]:
        """What to do next: its name and the call."""
        thing = chance.choice(self.all)
        # A call that was cut off may still be at work: the auditor, after a restart, tells.
        verbs = {None: ("wait",), True: ("change", "change", "delete"), False: ("create",)}
        verb = chance.choice(verbs[thing.exists])
        value = self.kind.value(chance)
        return f"{verb} {self.kind.noun}", lambda: getattr(self, f"_{verb}")(thing, value)

    def _wait(self, _thing: Thing, _value: str) -> None:
        time.sleep(_PAUSE)

    def _create(self, thing: Thing, value: str) -> None:
        thing.exists, thing.values = None, frozenset({value})
        try:
            self.kind.create(self._caller, thing.name, value)
        except Refused:
            thing.exists = False
            raise
        thing.exists = True

    def _change(self, thing: Thing, value: str) -> None:
        before, thing.values = thing.values, thing.values | {value}
        try:
            self.kind.change(self._caller, thing.name, value)
        except Refused:
            thing.values = before
            raise
        thing.values = frozenset({value})

    def _delete(self, thing: Thing, _value: str) -> None:
        thing.exists = None
        self.kind.delete(self._caller, thing.name)  # one that fails may be finished later
        thing.exists = False

    def audit(self) -> list[str]:
        """What was acknowledged against what is there; the daemon's word counts from now on."""
        findings = []
        for thing in self.all:
            what = f"{self.kind.noun} {thing.name}"
            try:
                found = self.kind.read(self._caller, thing.name)
            except (Cut, Refused) as exc:
                findings.append(f"{what} cannot be read: {exc}")
                continue
            if thing.exists is not None and thing.exists != (found is not None):
                findings.append(
                    f"{what}: exists is {found is not None}, acknowledged {thing.exists}"
                )
            elif found is not None and found not in thing.values:
                findings.append(f"{what} has {found!r}, acknowledged {sorted(thing.values)}")
            thing.exists = found is not None
            thing.values = frozenset() if found is None else frozenset({found})
        return findings

    def clear(self) -> None:
        """Delete all."""
        for thing in self.all:
            if thing.exists:
                self._delete(thing, "")
