# SPDX-License-Identifier: Apache-2.0
"""The addresses that the daemon listens on, as its configuration writes them."""

from __future__ import annotations

from nova_lxd.lxd.errors import BadRequest

DEFAULT_PORT = 8443
METRICS_PORT = 9100


def split_address(address: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Host and port of an address: ``HOST``, ``HOST:PORT``, ``:PORT``, ``[V6]:PORT``.

    :raises BadRequest: the port is no number.
    """
    host, port = address, str(default_port)
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        port = rest.lstrip(":") or port
    elif address.count(":") == 1:
        host, _, port = address.partition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadRequest(f"Reading address {address!r} failed: its port is not in 1-65535")
    return host or "::", int(port)
