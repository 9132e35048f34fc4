# SPDX-License-Identifier: Apache-2.0
"""The auditor of the cloud's fault run sees each kind of disagreement, and only those."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("openstack")
sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tools"))

from nova_lxd.tests.faults import cloudaudit

SERVER = "11111111-1111-1111-1111-111111111111"
PORT = "22222222-2222-2222-2222-222222222222"
MIGRATION = "33333333-3333-3333-3333-333333333333"


def server(status: str = "ACTIVE", vm_state: str = "active") -> Any:
    return SimpleNamespace(
        id=SERVER, name="s", instance_name="instance-1", status=status, vm_state=vm_state,
        flavor={"ram": 64},
    )  # fmt: skip


class Scene:
    """A cloud in which all agrees, for tests to break."""

    def __init__(self) -> None:
        self.servers = [server()]
        self.containers = [{"name": "instance-1", "status": "Running"}]
        self.ports = [SimpleNamespace(id=PORT, device_id=SERVER, device_owner="compute:nova")]
        self.plugged = f'{{attached-mac="fa:16", iface-id="{PORT}", vm-uuid=x}}'
        self.held: dict[str, Any] = {SERVER: {"resources": {"MEMORY_MB": 64, "VCPU": 1}}}
        self.migrations: list[Any] = []

    def audit(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr(cloudaudit.lxd, "instances", lambda path: self.containers)
        monkeypatch.setattr(cloudaudit.lxd, "socket_path", lambda *args: Path("/nowhere"))
        monkeypatch.setattr(cloudaudit.ovn, "vsctl", lambda *args: self.plugged)
        monkeypatch.setattr(cloudaudit, "_SETTLE_SECONDS", -1.0)
        subject = cloudaudit.CloudAudit.__new__(cloudaudit.CloudAudit)
        subject._cloud = SimpleNamespace(first_host=None)
        compute = SimpleNamespace(
            servers=lambda **kwargs: self.servers, migrations=lambda: self.migrations
        )
        placement = SimpleNamespace(get=self._get)
        network = SimpleNamespace(ports=lambda: self.ports)
        api = SimpleNamespace(compute=compute, placement=placement, network=network)
        subject._admin = SimpleNamespace(api=api)
        return subject.run()

    def _get(self, url: str, **_kwargs: Any) -> Any:
        if url == "/resource_providers":
            body: Any = {"resource_providers": [{"uuid": "p"}]}
        else:
            body = {"allocations": self.held}
        return SimpleNamespace(json=lambda: body)


def lose_container(scene: Scene) -> None:
    scene.containers = []


def leave_container(scene: Scene) -> None:
    scene.containers = [*scene.containers, {"name": "instance-2", "status": "Stopped"}]


def stop_container(scene: Scene) -> None:
    scene.containers = [{"name": "instance-1", "status": "Stopped"}]


def unplug(scene: Scene) -> None:
    scene.plugged = ""


def leave_interface(scene: Scene) -> None:
    scene.plugged += f' {{iface-id="{MIGRATION}"}}'


def leave_port(scene: Scene) -> None:
    scene.servers, scene.containers, scene.held = [], [], {}


def lose_allocation(scene: Scene) -> None:
    scene.held = {}


def leave_allocation(scene: Scene) -> None:
    scene.held = {**scene.held, MIGRATION: {"resources": {"MEMORY_MB": 64}}}


@pytest.mark.parametrize(
    ("breakage", "finding"),
    [
        (lose_container, "containers: left over [], missing ['instance-1']"),
        (leave_container, "containers: left over ['instance-2'], missing []"),
        (stop_container, "instance-1 is Stopped, Nova has it as ACTIVE"),
        (unplug, f"interfaces on the switch: left over ['{PORT}']"),
        (leave_interface, f"interfaces of no port: left over ['{MIGRATION}']"),
        (leave_port, f"ports of no server: left over ['{PORT}']"),
        (lose_allocation, "s has None MB allocated, its flavor 64"),
        (leave_allocation, f"allocations of nobody: left over ['{MIGRATION}']"),
    ],
)
def test_each_disagreement_is_seen(
    monkeypatch: pytest.MonkeyPatch, breakage: Any, finding: str
) -> None:
    scene = Scene()
    assert scene.audit(monkeypatch) == []
    breakage(scene)
    findings = scene.audit(monkeypatch)
    assert len(findings) == 1 and findings[0].startswith(finding), findings


def test_a_waiting_resize_holds_two_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    leave_allocation(scene)
    scene.migrations = [SimpleNamespace(uuid=MIGRATION, status="finished")]
    assert scene.audit(monkeypatch) == []


@pytest.mark.parametrize("status", ["ERROR", "REBUILD"])
def test_what_failed_may_have_a_container_or_none(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    scene = Scene()
    scene.servers, scene.held = [server(status, "error")], {}
    assert scene.audit(monkeypatch) == []
    scene.containers = []
    assert scene.audit(monkeypatch) == []


@pytest.mark.parametrize(
    ("state", "told", "ready"),
    [
        ("up", "2026-01-01T00:00:09.000000", True),
        ("up", "2026-01-01T00:00:03.000000", False),  # of the one that was killed
        ("down", "2026-01-01T00:00:09.000000", False),
        ("up", None, False),
    ],
)
def test_compute_is_back_with_its_first_heartbeat(
    monkeypatch: pytest.MonkeyPatch, state: str, told: str | None, ready: bool
) -> None:
    started = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC).timestamp()
    condition = SimpleNamespace(state="running", since=started)
    service = SimpleNamespace(state=state, updated_at=told)
    monkeypatch.setattr(cloudaudit.lxd, "instances", lambda path: [])
    monkeypatch.setattr(cloudaudit.lxd, "socket_path", lambda *args: Path("/nowhere"))
    subject = cloudaudit.CloudAudit.__new__(cloudaudit.CloudAudit)
    subject._cloud = SimpleNamespace(
        first_host=None, on=lambda host, name: name,
        controller=SimpleNamespace(condition=lambda name: condition),
    )  # fmt: skip
    compute = SimpleNamespace(services=lambda **kwargs: [service])
    subject._admin = SimpleNamespace(api=SimpleNamespace(compute=compute))
    assert subject.services_up() is ready
