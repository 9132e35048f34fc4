# SPDX-License-Identifier: Apache-2.0
"""Start, stop and ask after services: through systemd where it runs, else our supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cloud.errors import CloudError
from cloud.host import MARK, processes_of
from cloud.layout import REPOSITORY, SYSTEMD_UNITS, Layout, write_private
from cloud.run import run
from cloud.services import Condition, Service, base_environment, wait_until

STOPPED = Condition("stopped")
BOOT = "boot"


class Controller(Protocol):
    """The verbs that both back ends have; all are idempotent."""

    def prepare(self) -> None:
        """Make the back end itself ready to take services."""

    def start(self, service: Service) -> None:
        """Write down ``service`` and start it, anew if it runs with other settings."""

    def stop(self, name: str) -> None:
        """Stop the service ``name`` and wait for its end."""

    def conditions(self) -> dict[str, Condition]:
        """What is known of every service of this cloud."""

    def condition(self, name: str) -> Condition:
        """What is known of one service; stopped when it was never started."""

    def finish(self) -> list[str]:
        """End the back end and every process left of it; returns the names of strays."""


def bring_up(controller: Controller, service: Service) -> bool:
    """Start ``service`` unless it runs as described; wait until it answers.

    Returns whether it had to be started.  Raises CloudError when it does not come up.
    """
    def now() -> Condition:
        return controller.condition(service.name)

    condition = now()
    fresh = condition.state == "running" and condition.fingerprint == service.fingerprint()
    if fresh and service.probe.answers():
        return False
    controller.start(service)
    wait_until(service, now, service.start_seconds)
    return True


class SupervisorController:
    """Talks to :mod:`cloud.supervisor`, which it starts when needed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def prepare(self) -> None:
        if self._running():
            return
        end_orphans(self._layout)
        log = self._layout.log / "supervisor.log"
        package = Path(__file__).resolve().parents[1]
        with log.open("ab") as stream:
            subprocess.Popen(
                [sys.executable, "-m", "cloud.supervisor", str(self._layout.state)],
                env={**base_environment({}), "PYTHONPATH": str(package)}, cwd="/",
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            )
        deadline = time.monotonic() + 15
        while not self._running():
            if time.monotonic() > deadline:
                raise CloudError("the supervisor did not start within 15 seconds.", log=log)
            time.sleep(0.05)

    def start(self, service: Service) -> None:
        write_private(self._layout.units / f"{service.name}.json", service.to_json())
        self.stop(service.name)
        self._ask("start", service.name)

    def stop(self, name: str) -> None:
        self._ask("stop", name, timeout=180)

    def conditions(self) -> dict[str, Condition]:
        if not self._running():
            return {}
        services = self._ask("status")["services"]
        return {name: Condition(**fields) for name, fields in services.items()}

    def condition(self, name: str) -> Condition:
        return self.conditions().get(name, STOPPED)

    def finish(self) -> list[str]:
        if not self._running():
            return []
        strays: list[str] = self._ask("quit", timeout=120)["strays"]
        return strays

    def supervisor_pid(self) -> int:
        """The process id of the running supervisor."""
        pid: int = self._ask("status")["pid"]
        return pid

    def _running(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(str(self._layout.supervisor_socket))
                client.sendall(b'{"verb": "status"}\n')
                return bool(client.makefile("rb").readline())
            except (FileNotFoundError, ConnectionError):  # none, or one that is just dying
                return False

    def _ask(self, verb: str, name: str = "", timeout: float = 60.0) -> dict:  # type: ignore[type-arg]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout)
            client.connect(str(self._layout.supervisor_socket))
            client.sendall(json.dumps({"verb": verb, "name": name}).encode() + b"\n")
            line = client.makefile("rb").readline()
        answer: dict = json.loads(line) if line else {}  # type: ignore[type-arg]
        if "error" in answer:
            raise CloudError(
                f"the supervisor could not {verb} {name}: {answer['error']}.",
                log=self._layout.log / "supervisor.log",
            )
        return answer


def end_orphans(layout: Layout) -> None:
    """End what a supervisor that was killed has left: it would hold the ports."""
    for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
        for pid, _ in processes_of(layout.state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while processes_of(layout.state) and time.monotonic() < deadline:
            time.sleep(0.2)


class SystemdController:
    """One unit per service, named after the cloud, and one that brings all up at boot.

    The services' own units are not enabled: what a service needs besides others (mounts,
    addresses, namespaces) is what 'up' makes, in its order.
    """

    def __init__(self, layout: Layout, units: Path = SYSTEMD_UNITS) -> None:
        self._layout = layout
        self._units = units
        self._log = layout.log / "systemd.log"

    def unit_name(self, name: str) -> str:
        return f"{self._layout.unit_prefix}{name}.service"

    def prepare(self) -> None:
        unit = self.unit_name(BOOT)
        if write_private(self._units / unit, render_boot_unit(self._layout), mode=0o600):
            self._systemctl("daemon-reload")
        self._systemctl("enable", "--quiet", unit)

    def start(self, service: Service) -> None:
        unit = self.unit_name(service.name)
        write_private(self._layout.units / f"{service.name}.json", service.to_json())
        if write_private(self._units / unit, render_unit(service, self._layout), mode=0o600):
            self._systemctl("daemon-reload")
        # Waited for: until its turn comes the old process would answer in the new one's place.
        self._systemctl("restart", unit)

    def stop(self, name: str) -> None:
        unit = self.unit_name(name)
        if (self._units / unit).exists():
            self._systemctl("stop", unit)

    def conditions(self) -> dict[str, Condition]:
        found = {}
        for path in sorted(self._units.glob(f"{self._layout.unit_prefix}*.service")):
            name = path.stem.removeprefix(self._layout.unit_prefix)
            record = self._layout.units / f"{name}.json"
            if record.is_file():
                found[name] = self._condition(path.name, record)
        return found

    def condition(self, name: str) -> Condition:
        record = self._layout.units / f"{name}.json"
        if not (self._units / self.unit_name(name)).exists() or not record.is_file():
            return STOPPED
        return self._condition(self.unit_name(name), record)

    def _condition(self, unit: str, record: Path) -> Condition:
        shown = self._systemctl(
            "show", unit, "--property=ActiveState,SubState,MainPID,NRestarts,Result",
            "--property=ActiveEnterTimestampMonotonic",
        )
        fields = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        restarts = int(fields.get("NRestarts") or 0)
        state = "stopped"
        if fields["ActiveState"] == "active":
            state = "running"
        elif fields["ActiveState"] == "failed" or restarts >= 3:
            state = "failed"
        boot = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        since = boot + int(fields.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        return Condition(
            state, int(fields.get("MainPID") or 0), since, restarts,
            f"{fields['SubState']}, result {fields.get('Result', '')}",
            json.loads(record.read_text())["fingerprint"],
        )

    def finish(self) -> list[str]:
        # Another cloud's units may begin with our prefix, but it has no record of ours.
        for name in [BOOT, *(record.stem for record in self._layout.units.glob("*.json"))]:
            path = self._units / self.unit_name(name)
            if path.exists():
                # The boot unit may be what runs us: it is not stopped.
                self._systemctl("disable", "--quiet", *(("--now",) if name != BOOT else ()),
                                path.name)
                if self._active_state(path.name) == "failed":
                    # systemd would remember the unit for it.
                    self._systemctl("reset-failed", path.name)
                path.unlink()
        self._systemctl("daemon-reload")
        strays = [line.split()[0] for _, line in processes_of(self._layout.state) if line]
        end_orphans(self._layout)
        return strays

    def _active_state(self, unit: str) -> str:
        return self._systemctl("show", unit, "--value", "--property=ActiveState").strip()

    def _systemctl(self, *arguments: str) -> str:
        return run(("systemctl", *arguments), log=self._log, timeout=180)


def render_unit(service: Service, layout: Layout) -> str:
    """A systemd unit that does what the supervisor does for ``service``."""
    environment = {**base_environment(service.env), MARK: str(layout.state)}
    lines = [
        "[Unit]", f"Description=nova-lxd cloud: {service.name}",
        "After=network.target local-fs.target", "StartLimitIntervalSec=0",
        "", "[Service]", "Type=simple", f"User={service.user}",
        f"WorkingDirectory={service.cwd}",
        *(f"ExecStartPre={'+' if service.user != 'root' else ''}{quote(argv)}"
          for argv in service.before),
        f"ExecStart={quote(service.command())}",
        *(f"Environment={quote_value(f'{name}={value}')}" for name, value in environment.items()),
        f"StandardOutput=append:{service.log}", f"StandardError=append:{service.log}",
        f"KillMode={'process' if service.kill == 'process' else 'mixed'}",
        f"TimeoutStopSec={service.stop_seconds:.0f}", "Restart=always", "RestartSec=1",
        "LimitNOFILE=65536", "Delegate=yes", "TasksMax=infinity", "",
    ]
    return "\n".join(lines)


def render_boot_unit(layout: Layout) -> str:
    """The unit that types 'up' when the machine has booted."""
    command = (sys.executable, str(REPOSITORY / "quickstart"), "--state", str(layout.state), "up",
               "--no-server")
    log = layout.log / "boot.log"
    return "\n".join([
        "[Unit]", "Description=nova-lxd cloud: up at boot", "Wants=network-online.target",
        "After=network-online.target local-fs.target", "", "[Service]", "Type=oneshot",
        f"ExecStart={quote(command)}", "TimeoutStartSec=infinity",
        f"StandardOutput=append:{log}", f"StandardError=append:{log}",
        "", "[Install]", "WantedBy=multi-user.target", "",
    ])


def quote(argv: Sequence[str]) -> str:
    return " ".join(quote_word(word) for word in argv)


def quote_word(word: str) -> str:
    """One word of a unit file's command line: specifiers and variables are literal."""
    return quote_value(word.replace("$", "$$"))


def quote_value(word: str) -> str:
    """One value of a unit file where variables are not expanded: specifiers are literal."""
    word = word.replace("\\", "\\\\").replace("%", "%%")
    if word and shlex.quote(word) == word:
        return word
    return '"' + word.replace('"', '\\"') + '"'


def choose(layout: Layout) -> SystemdController | SupervisorController:
    """systemd when it is the first process of this machine, else the supervisor."""
    if os.path.isdir("/run/systemd/system"):
        return SystemdController(layout)
    return SupervisorController(layout)
