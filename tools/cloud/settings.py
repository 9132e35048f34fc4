# SPDX-License-Identifier: Apache-2.0
"""What is decided once and kept: options, ports, passwords, the external subnet."""

from __future__ import annotations

import errno
import ipaddress
import json
import secrets
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloud.errors import CloudError
from cloud.layout import Layout, write_private

LOOPBACK = "127.0.0.1"

DEFAULT_PORTS = {
    "mariadb": 3306,
    "rabbitmq": 5672,
    "rabbitmq-dist": 25672,
    "epmd": 4369,
    "memcached": 11211,
    "keystone": 5000,
    "glance": 9292,
    "placement": 8778,
    "nova": 8774,
    "metadata": 8775,
    "serialproxy": 6083,
    "neutron": 9696,
    "cinder": 8776,
    "horizon": 8080,
    "ovsdb": 6640,
    "ovn-nb": 6641,
    "ovn-sb": 6642,
}

PASSWORDS = (
    "admin", "demo", "guest", "rabbitmq", "metadata",
    "keystone", "glance", "placement", "nova", "neutron", "cinder", "horizon",
)

OPTIONAL = ("cinder", "horizon")
DRIVERS = ("lxd", "fake")
BACK_ENDS = ("bundled", "real")

# Subnets tried for the external network, in this order; the first one that no route of the
# host overlaps is taken.  172.24.4.0/24 is what OpenStack's own documentation uses.
EXTERNAL_SUBNETS = ("172.24.4.0/24", "172.29.41.0/24", "10.213.77.0/24", "192.168.213.0/24")


@dataclass
class HostRecord:
    """One compute host: the machine itself, or one in a network namespace (add-host)."""

    name: str
    address: str = LOOPBACK
    namespace: str = ""


@dataclass
class Settings:
    """The content of cloud.json."""

    driver: str = "lxd"
    lxd: str = "bundled"
    pool: str = "dir"
    without: list[str] = field(default_factory=list)
    venv: str = ""
    external_subnet: str = ""
    outbound: bool = True
    ports: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    hosts: list[HostRecord] = field(default_factory=list)
    installed_packages: list[str] = field(default_factory=list)
    image: str = "debian"

    @classmethod
    def load(cls, layout: Layout) -> Settings | None:
        """The settings of an existing cloud, None when there is none.

        Raises CloudError when the file cannot be read as settings.
        """
        try:
            data: dict[str, Any] = json.loads(layout.settings.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CloudError(
                f"{layout.settings} does not hold settings: {error}.",
                remedy="restore the file, or remove the cloud with: quickstart destroy",
            ) from error
        hosts = [HostRecord(**host) for host in data.pop("hosts", [])]
        return cls(hosts=hosts, **data)

    def save(self, layout: Layout) -> None:
        """Write the settings, readable by root alone."""
        write_private(layout.settings, json.dumps(asdict(self), indent=2) + "\n")

    def complete(self, host_name: str) -> list[str]:
        """Decide all that is still open; returns sentences worth telling the person."""
        notes = []
        for name in PASSWORDS:
            self.passwords.setdefault(name, secrets.token_hex(16))
        taken = set(self.ports.values())
        for name, port in DEFAULT_PORTS.items():
            if name in self.ports:
                continue
            chosen = first_free_port(port, taken)
            if chosen != port:
                notes.append(f"port {port} is in use on this machine: {name} uses {chosen}")
            self.ports[name] = chosen
            taken.add(chosen)
        if not self.external_subnet:
            self.external_subnet = free_subnet(EXTERNAL_SUBNETS, host_routes())
            if self.external_subnet != EXTERNAL_SUBNETS[0]:
                notes.append(f"the external network uses {self.external_subnet}")
        if not self.hosts:
            self.hosts.append(HostRecord(host_name))
        return notes


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def first_free_port(preferred: int, taken: Iterable[int] = ()) -> int:
    """``preferred`` if free, else the first free one from 1xxxx on with the same last digits.

    Raises CloudError when none of 2000 is free.
    """
    refused = set(taken)
    second = 10000 + preferred % 10000
    for port in (preferred, *range(second, second + 2000)):
        if port not in refused and port_is_free(port):
            return port
    raise CloudError(
        f"no free TCP port was found for the default {preferred}.",
        remedy="stop what listens there (ss -ltnp) and run the command again",
    )


def host_routes(table: Path = Path("/proc/net/route")) -> list[ipaddress.IPv4Network]:
    """The IPv4 routes of this network namespace, without the default route."""
    routes = []
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        address = int.from_bytes(bytes.fromhex(fields[1]), "little")
        mask = int.from_bytes(bytes.fromhex(fields[7]), "little")
        if mask:
            routes.append(ipaddress.IPv4Network((address, bin(mask).count("1"))))
    return routes


def free_subnet(candidates: Iterable[str], used: Iterable[ipaddress.IPv4Network]) -> str:
    """The first candidate that overlaps none of ``used``; CloudError when all do."""
    used = list(used)
    for candidate in candidates:
        network = ipaddress.IPv4Network(candidate)
        if not any(network.overlaps(other) for other in used):
            return candidate
    raise CloudError(
        "every subnet that could serve as the external network is routed by this machine.",
        remedy="choose one yourself: quickstart up --external-subnet A.B.C.0/24",
    )
