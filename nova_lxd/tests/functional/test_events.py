# SPDX-License-Identifier: Apache-2.0
"""`lxc monitor` and the operations that events tell of."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nova_lxd.tests.functional.conftest import Launch, remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


class Monitor:
    """Collects the events of `lxc monitor --format=json`."""

    def __init__(self, daemon: Daemon, *arguments: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            ["lxc", "monitor", "--format=json", *arguments],
            env=daemon.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip():
                self.events.append(json.loads(line))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._thread.join(timeout=10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def actions(self) -> list[str]:
        return [e["metadata"]["action"] for e in self.events if e["type"] == "lifecycle"]


@contextmanager
def listening(daemon: Daemon, *arguments: str) -> Iterator[Monitor]:
    """A monitor that hears already: a change made for the purpose has come through."""
    monitor = Monitor(daemon, *arguments)
    try:
        if "--type=lifecycle" in arguments or not arguments:

            def heard() -> bool:
                daemon.api("PATCH", "/1.0/profiles/default", {"description": "probe"})
                return bool(monitor.actions())

            wait_for(heard, "the first event", interval=0.2)
            count = -1
            while count != len(monitor.events):
                count = len(monitor.events)
                threading.Event().wait(0.3)
        yield monitor
    finally:
        monitor.close()


def test_lifecycle_of_an_instance_in_order(daemon: Daemon) -> None:
    with listening(daemon, "--type=lifecycle") as monitor:
        del monitor.events[:]
        daemon.lxc("init", "busybox", "ev")
        daemon.lxc("start", "ev")
        daemon.lxc("exec", "ev", "--", "true")
        daemon.lxc("snapshot", "ev", "s")
        daemon.lxc("config", "set", "ev", "user.x=1")
        daemon.lxc("stop", "-f", "ev")
        daemon.lxc("rename", "ev", "ev2")
        daemon.lxc("delete", "ev2")
        wait_for(lambda: "instance-deleted" in monitor.actions(), "the last event")
    wanted = [
        "instance-created",
        "instance-started",
        "instance-exec",
        "instance-snapshot-created",
        "instance-updated",
        "instance-stopped",
        "instance-renamed",
        "instance-deleted",
    ]
    assert [action for action in monitor.actions() if action in wanted] == wanted
    created = next(e for e in monitor.events if e["metadata"]["action"] == "instance-created")
    assert created["project"] == "default"
    assert created["metadata"]["source"] == "/1.0/instances/ev"
    stamps = [e["timestamp"][:23] for e in monitor.events if e["metadata"]["action"] in wanted]
    assert stamps == sorted(stamps)


def test_a_listener_does_not_hold_up_the_end_of_the_daemon(bare: Daemon) -> None:
    with listening(bare, "--type=lifecycle"):
        began = time.monotonic()
        bare.stop()
        assert time.monotonic() - began < 15
        bare.start()


def test_operation_events(daemon: Daemon) -> None:
    with listening(daemon) as monitor:
        del monitor.events[:]
        daemon.lxc("init", "busybox", "ev")
        remove(daemon, "ev")

        def ends() -> list[str]:
            return [
                e["metadata"]["description"]
                for e in monitor.events
                if e["type"] == "operation" and e["metadata"]["status"] == "Success"
            ]

        wait_for(lambda: {"Creating instance", "Deleting instance"} <= set(ends()), "both ends")
    creating = [
        e["metadata"]
        # lxc prints each event from a goroutine of its own: only their stamps tell the order.
        for e in sorted(monitor.events, key=lambda event: event["timestamp"])
        if e["type"] == "operation" and e["metadata"]["description"] == "Creating instance"
    ]
    assert len({each["id"] for each in creating}) == 1
    statuses = [each["status"] for each in creating]
    assert set(statuses) <= {"Pending", "Running", "Success"}
    if daemon.backend == "bundled":
        # Real LXD sends from several threads and may swap the first two.
        assert statuses[0] == "Pending" and statuses[-1] == "Success"
    assert creating[0]["resources"]["instances"] == ["/1.0/instances/ev"]


def test_type_and_project_filters(daemon: Daemon) -> None:
    daemon.lxc("project", "create", "quiet")
    try:
        with listening(daemon, "--type=lifecycle") as monitor:
            del monitor.events[:]
            daemon.lxc("profile", "create", "px", "--project", "quiet")
            daemon.lxc("profile", "delete", "px", "--project", "quiet")
            daemon.lxc("profile", "create", "py")
            daemon.lxc("profile", "delete", "py")
            wait_for(lambda: "profile-deleted" in monitor.actions(), "the profile's end")
        assert {e["type"] for e in monitor.events} == {"lifecycle"}
        assert {e["project"] for e in monitor.events} == {"default"}
    finally:
        daemon.lxc("project", "delete", "quiet")


def test_guest_that_ends_by_itself_is_told(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    with listening(daemon, "--type=lifecycle") as monitor:
        daemon.exec(name, "poweroff", check=False)  # may be killed by what it starts
        wait_for(lambda: "instance-shutdown" in monitor.actions(), "the guest's end", timeout=20)


def test_network_storage_profile_image_events(daemon: Daemon) -> None:
    with listening(daemon, "--type=lifecycle") as monitor:
        daemon.lxc("network", "create", "bre", "ipv4.address=none", "ipv6.address=none")
        daemon.lxc("network", "delete", "bre")
        daemon.lxc("storage", "volume", "create", "default", "ve")
        daemon.lxc("storage", "volume", "delete", "default", "ve")
        daemon.lxc("image", "alias", "create", "ae", daemon.get("/1.0/images")[0].split("/")[-1])
        daemon.lxc("image", "alias", "delete", "ae")
        wanted = [
            "network-created", "network-deleted",
            "storage-volume-created", "storage-volume-deleted",
            "image-alias-created", "image-alias-deleted",
        ]  # fmt: skip
        wait_for(lambda: "image-alias-deleted" in monitor.actions(), "the alias's end")
    assert [action for action in monitor.actions() if action in wanted] == wanted
    made = next(e for e in monitor.events if e["metadata"]["action"] == "network-created")
    assert made["metadata"]["requestor"] == {
        "username": "root",
        "protocol": "unix",
        "address": "@",
    }
    assert made["metadata"]["source"] == "/1.0/networks/bre"


def test_operations_list_show_delete(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    answer = daemon.api(
        "POST", f"/1.0/instances/{name}/exec", {"command": ["sleep", "3"], "interactive": False}
    )
    path = answer.body["operation"]
    operation = path.rpartition("/")[2]
    assert operation in daemon.lxc("operation", "list", "-fcsv").stdout
    shown = daemon.yaml("operation", "show", operation)
    assert shown["description"] == "Executing command" and shown["status"] == "Running"
    assert path in daemon.get("/1.0/operations")["running"]
    assert daemon.refused("operation", "delete", operation)
    short = daemon.get(f"{path}/wait?timeout=0")
    assert short["status"] == "Running"
    assert daemon.get(f"{path}/wait")["status"] == "Success"
    wait_for(lambda: daemon.api("GET", path).status == 404, "the operation forgotten")
