# SPDX-License-Identifier: Apache-2.0
"""What a long-running service is: its command, its environment, how to see that it answers."""

from __future__ import annotations

import http.client
import json
import pwd
import socket
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloud.errors import CloudError
from cloud.steps import fingerprint


@dataclass(frozen=True)
class Probe:
    """How to see that a service answers.

    kind: ``http`` (target is an URL, any status below 500 is an answer), ``tcp`` (HOST:PORT),
    ``unix`` (a listening socket's path), ``file`` (a path that appears), ``alive`` (the process
    has lived for ``target`` seconds).
    """

    kind: str
    target: str

    def answers(self, timeout: float = 5.0) -> bool:
        """Whether the service answers now; ``alive`` is decided by the caller and true here."""
        try:
            if self.kind == "http":
                return http_status(self.target, timeout) < 500
            if self.kind == "tcp":
                host, _, port = self.target.rpartition(":")
                socket.create_connection((host, int(port)), timeout).close()
                return True
            if self.kind == "unix":
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                    client.settimeout(timeout)
                    client.connect(self.target)
                return True
            if self.kind == "file":
                return Path(self.target).exists()
        except (OSError, http.client.HTTPException):
            return False
        if self.kind == "alive":
            return True
        raise ValueError(f"unknown probe {self.kind!r}")


def http_status(url: str, timeout: float) -> int:
    """The status of a GET on ``url``; proxies of the environment are not used."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status
    finally:
        connection.close()


@dataclass(frozen=True)
class Service:
    """One service of the cloud; a value, so that it can be compared and written down.

    ``enter`` is put before the command, to run it on an added host.  ``before`` is run ahead of
    each start.  ``kill`` says what a stop ends: the whole process ``group``, or the first
    ``process`` alone (a container manager's containers outlive its restart).  ``watch`` are the
    files whose change asks for a restart; ``tail`` the log to show when it is not ``log``, which
    takes the standard outputs.
    """

    name: str
    argv: tuple[str, ...]
    log: str
    probe: Probe
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    cwd: str = "/"
    enter: tuple[str, ...] = ()
    before: tuple[tuple[str, ...], ...] = ()
    kill: str = "group"
    stop_seconds: float = 30.0
    start_seconds: float = 180.0
    watch: tuple[str, ...] = ()
    tail: str = ""

    def command(self) -> list[str]:
        """The argv, behind the words that enter the host it runs on."""
        return [*self.enter, *self.argv]

    def fingerprint(self) -> str:
        """Changes when the command or one of its configuration files does."""
        return fingerprint(json.dumps(asdict(self), sort_keys=True), *map(Path, self.watch))

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "fingerprint": self.fingerprint()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Service:
        data: dict[str, Any] = json.loads(text)
        # A record of another version of this program may have fewer fields, or more.
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        for name in ("argv", "watch", "enter"):
            known[name] = tuple(known.get(name, ()))
        known["before"] = tuple(tuple(argv) for argv in known.get("before", ()))
        return cls(**{**known, "probe": Probe(**data["probe"])})


@dataclass
class Condition:
    """What a controller knows of a service: ``state`` is running, stopped or failed."""

    state: str
    pid: int = 0
    since: float = 0.0
    restarts: int = 0
    status: str = ""
    fingerprint: str = ""


def account(name: str) -> tuple[int, int]:
    """(uid, gid) of a user of this machine; CloudError when there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise CloudError(
            f"the user {name} does not exist on this machine.",
            remedy="install the Debian package that makes it, then run 'quickstart up' again",
        ) from error
    return entry.pw_uid, entry.pw_gid


def base_environment(extra: Mapping[str, str], path: str = "") -> dict[str, str]:
    """A small environment of known content, not the one of whoever typed the command."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": f"{path}:{system}" if path else system,
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def wait_until(
    service: Service, condition_of: Any, seconds: float, pause: float = 0.2
) -> None:
    """Wait until ``service`` answers.

    ``condition_of`` is called without arguments and returns its Condition.  Raises CloudError
    when the service fails or does not answer within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    log = Path(service.tail or service.log)
    while True:
        condition = condition_of()
        if condition.state == "failed":
            raise CloudError(
                f"{service.name} does not stay up: {condition.status}.", log=log,
                remedy="read the log; 'quickstart up' tries again from here",
            )
        if condition.state == "running":
            if service.probe.kind == "alive":
                if time.time() - condition.since >= float(service.probe.target):
                    return
            elif service.probe.answers():
                return
        if time.monotonic() > deadline:
            raise CloudError(
                f"{service.name} runs but did not answer on {service.probe.target} within "
                f"{seconds:.0f} seconds.", log=log,
                remedy="if the machine is slow or busy, just run 'quickstart up' again",
            )
        time.sleep(pause)
