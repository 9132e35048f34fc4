# SPDX-License-Identifier: Apache-2.0
"""Addresses of proxies: ``tcp:HOST:PORTS``, ``udp:HOST:PORTS``, ``unix:PATH``, ``unix:@NAME``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from nova_lxd.lxd.network.values import quoted


@dataclass(frozen=True)
class ProxyAddress:
    """A parsed address; ``ports`` is empty for unix, ``host`` then the path or ``@name``."""

    kind: str
    host: str
    ports: tuple[int, ...] = ()

    @property
    def abstract(self) -> bool:
        """Is it a unix socket without a file?"""
        return self.kind == "unix" and self.host.startswith("@")

    @property
    def family(self) -> str:
        """ipv4, ipv6 or unix."""
        if self.kind == "unix":
            return "unix"
        return f"ipv{ipaddress.ip_address(self.host).version}"


def parse(text: str) -> ProxyAddress:
    """Parse an address.  ValueError: it is none, in LXD's words."""
    kind, separator, rest = text.partition(":")
    if kind not in ("tcp", "udp", "unix") or not separator:
        raise ValueError(f"Unknown connection type {quoted(kind)}")
    if kind == "unix":
        if rest in ("", "@") or "\0" in rest:
            raise ValueError(f"Invalid address {quoted(text)}: a path or @name is missing")
        if not rest.startswith(("/", "@")):
            raise ValueError(f"Invalid address {quoted(text)}: the path must be absolute")
        if len(rest.encode()) > 107:
            raise ValueError(f"Invalid address {quoted(text)}: the path is longer than 107 bytes")
        return ProxyAddress(kind, rest)
    host, separator, ports = rest.rpartition(":")
    if not separator:
        raise ValueError(f"Address {quoted(text)} has no port")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"Not an IP address {quoted(host)}")
    return ProxyAddress(kind, host, tuple(_ports(ports)))


def _ports(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, separator, last = part.partition("-")
        low = _port(first)
        high = _port(last) if separator else low
        if high < low:
            raise ValueError(f"Start port {low} must be lower than end port {high}")
        found += range(low, high + 1)
    return found


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError(f"Invalid port number {quoted(text)}")
    return int(text)


def check(value: str) -> None:
    """The check of a key that holds an address."""
    parse(value)
