# SPDX-License-Identifier: Apache-2.0
"""The auditor of the cloud run: Nova and Placement against the daemon and the switch."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloud import lxd, ovn
from cloud.cli import open_cloud

from nova_lxd.tests.cloud.world import World

_KILLED = ("lxd", "nova-compute", "ovs-vswitchd")
# States that Nova's periodic tasks correct by themselves.
_SETTLE_SECONDS = 90.0
_STATES = {"ACTIVE": "Running", "VERIFY_RESIZE": "Running", "SHUTOFF": "Stopped",
           "PAUSED": "Frozen"}  # fmt: skip
_INTERFACE_ID = re.compile(r'iface-id="?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})')
_PLACEMENT = {"OpenStack-API-Version": "placement 1.36"}


def failed(server: Any) -> bool:
    """Has Nova given the server up?

    Its status alone does not tell: a rebuild that Nova takes up after its restart, having given it
    up in its start, leaves status REBUILD and no allocation for good.
    """
    return bool(server.vm_state == "error")


def _epoch(told: str | None) -> float:
    """Seconds since 1970 of a time as Nova tells it; 0 of none."""
    return datetime.fromisoformat(told).replace(tzinfo=UTC).timestamp() if told else 0.0


class CloudAudit:
    """``run`` gives what disagrees, as sentences; nothing when all is well."""

    def __init__(self, state: Path) -> None:
        self._cloud = open_cloud(state)
        self._admin = World(state, "admin")
        self._findings: list[str] = []

    def run(self) -> list[str]:
        """Compare everything; what Nova puts right by itself is given time."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            self._findings = []
            servers = list(self._admin.api.compute.servers(all_projects=True))
            self._containers(servers)
            self._ports(servers)
            self._placement(servers)
            if not self._findings or time.monotonic() > deadline:
                return self._findings
            time.sleep(2)

    def services_up(self) -> bool:
        """Do the daemon and nova-compute answer?"""
        host = self._cloud.first_host
        since = {}
        for name in _KILLED:
            condition = self._cloud.controller.condition(self._cloud.on(host, name))
            if condition.state != "running":
                return False
            since[name] = condition.since
        try:
            lxd.instances(lxd.socket_path(self._cloud, host))
        except (OSError, KeyError):
            return False
        # "up" may rest on a heartbeat of the one that was killed; a new one comes after its start.
        return all(
            service.state == "up" and _epoch(service.updated_at) > since["nova-compute"]
            for service in self._admin.api.compute.services(binary="nova-compute")
        )

    def _same(self, what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
        have, want = set(found), set(wanted)
        if have != want:
            self._findings.append(
                f"{what}: left over {sorted(have - want)}, missing {sorted(want - have)}"
            )

    def _containers(self, servers: list[Any]) -> None:
        path = lxd.socket_path(self._cloud, self._cloud.first_host)
        found = {each["name"]: each["status"] for each in lxd.instances(path)}
        # What failed may have a container or none: it is the user's to delete.
        broken = {server.instance_name for server in servers if failed(server)}
        whole = {s.instance_name: s.status for s in servers if not failed(s)}
        self._same("containers", set(found) - broken, whole)
        for name, status in whole.items():
            wanted = _STATES.get(status)
            if wanted and name in found and found[name] != wanted:
                self._findings.append(f"{name} is {found[name]}, Nova has it as {status}")

    def _ports(self, servers: list[Any]) -> None:
        """The interfaces of running servers are on the switch, and no other server's."""
        ids = ovn.vsctl(
            self._cloud, self._cloud.first_host, "--bare", "--columns=external_ids", "find",
            "Interface", "external_ids:iface-id!=''",
        )  # fmt: skip
        plugged = set(_INTERFACE_ID.findall(ids))
        every = list(self._admin.api.network.ports())
        ports = {
            port.id: port.device_id for port in every
            if str(port.device_owner).startswith("compute:")
        }  # fmt: skip
        known = {server.id for server in servers}
        self._same("ports of no server", (p for p, s in ports.items() if s not in known), ())
        running = {s.id for s in servers if s.status == "ACTIVE"}
        missing = {port for port, server in ports.items() if server in running} - plugged
        self._same("interfaces on the switch", missing, ())
        # A network's metadata service is plugged, too.
        self._same("interfaces of no port", plugged - {port.id for port in every}, ())

    def _placement(self, servers: list[Any]) -> None:
        """Each server that has a host has its allocation, and nobody else has any."""
        api = self._admin.api.placement
        providers = api.get("/resource_providers", headers=_PLACEMENT).json()["resource_providers"]
        found: dict[str, dict[str, int]] = {}
        for provider in providers:
            url = f"/resource_providers/{provider['uuid']}/allocations"
            for consumer, held in api.get(url, headers=_PLACEMENT).json()["allocations"].items():
                found[consumer] = held["resources"]
        known = {server.id for server in servers}
        # While a resize waits, its migration holds the old flavor; Nova leaves that of one that
        # failed to `nova-manage placement audit`.
        migrations = {
            each.uuid
            for each in self._admin.api.compute.migrations()
            if each.status in ("finished", "error")
        }
        self._same("allocations of nobody", set(found) - known - migrations, ())
        for server in servers:
            if failed(server):
                continue
            memory = found.get(server.id, {}).get("MEMORY_MB")
            if memory != server.flavor["ram"]:
                self._findings.append(
                    f"{server.name} has {memory} MB allocated, its flavor {server.flavor['ram']}"
                )
