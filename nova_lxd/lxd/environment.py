# SPDX-License-Identifier: Apache-2.0
"""What ``GET /1.0`` tells of this host and daemon (LXD: ServerEnvironment)."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nova_lxd.lxd.addresses import split_address
from nova_lxd.lxd.host import liblxc_features, netstate
from nova_lxd.lxd.serverconfig import ServerConfig

SERVER_VERSION = "5.0.2"
_ARCHITECTURES = {"x86_64": ["x86_64", "i686"], "aarch64": ["aarch64", "armv7l"]}


def _os_release() -> dict[str, str]:
    try:
        info = platform.freedesktop_os_release()
    except OSError:
        return {}
    return {"name": info.get("NAME", ""), "version": info.get("VERSION_ID", "")}


def host_addresses() -> list[str]:
    """The global addresses of this host's interfaces."""
    return [
        address.address
        for interface in netstate.of_host().values()
        for address in interface.addresses
        if address.scope == "global"
    ]


class Environment:
    """Facts of the host, read once, and the addresses that change with the configuration."""

    def __init__(
        self,
        config: ServerConfig,
        server_cert: Path,
        pool_drivers: Callable[[], list[tuple[str, str]]],
        supported_drivers: list[dict[str, Any]],
    ) -> None:
        self._config = config
        self.certificate = server_cert.read_text()
        der = ssl.PEM_cert_to_DER_cert(self.certificate)
        self.fingerprint = hashlib.sha256(der).hexdigest()
        self._pool_drivers = pool_drivers
        machine = platform.machine()
        release = _os_release()
        self._static: dict[str, Any] = {
            "architectures": _ARCHITECTURES.get(machine, [machine]),
            "certificate": self.certificate,
            "certificate_fingerprint": self.fingerprint,
            "driver": "lxc",
            "driver_version": liblxc_features.version(),
            "firewall": "nftables",
            "kernel": platform.system(),
            "kernel_architecture": machine,
            "kernel_features": liblxc_features.kernel(),
            "kernel_version": platform.release(),
            "lxc_features": liblxc_features.lxc(),
            "os_name": release.get("name", ""),
            "os_version": release.get("version", ""),
            "server": "lxd",
            "server_clustered": False,
            "server_event_mode": "full-mesh",
            "server_name": socket.gethostname(),
            "server_pid": os.getpid(),
            "server_version": SERVER_VERSION,
            "storage_supported_drivers": supported_drivers,
        }

    @property
    def architecture(self) -> str:
        """The host's own architecture, as images name it."""
        return str(self._static["architectures"][0])

    def addresses(self) -> list[str]:
        """``HOST:PORT`` of the HTTPS listener; all of the host's when it listens on all."""
        configured = self._config.get("core.https_address")
        if not configured:
            return []
        host, port = split_address(configured)
        hosts = host_addresses() if host in ("::", "0.0.0.0") else [host]
        if host == "0.0.0.0":
            hosts = [h for h in hosts if ":" not in h]
        return [f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h in hosts]

    def to_api(self, project: str) -> dict[str, Any]:
        """The ``environment`` object for a client that uses ``project``."""
        drivers = sorted(self._pool_drivers())
        return {
            "addresses": self.addresses(),
            **self._static,
            "project": project,
            "storage": " | ".join(name for name, _version in drivers),
            "storage_version": " | ".join(version for _name, version in drivers),
        }
