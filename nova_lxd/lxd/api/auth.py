# SPDX-License-Identifier: Apache-2.0
"""Who a client is: root or the socket's group locally, a trusted certificate remotely."""

from __future__ import annotations

import hashlib
import logging
import socket
import struct
from dataclasses import dataclass, field

from aiohttp import web

from nova_lxd.lxd.db import certificates
from nova_lxd.lxd.db.connection import Database

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """The caller of one request."""

    trusted: bool
    protocol: str  # "unix", "tls" or ""
    username: str
    certificate: bytes | None = None  # DER
    restricted: bool = False
    projects: frozenset[str] = field(default_factory=frozenset)

    def may_use(self, project: str) -> bool:
        return not self.restricted or project in self.projects

    @property
    def local(self) -> bool:
        return self.protocol == "unix"


def fingerprint(der: bytes) -> str:
    """LXD's fingerprint of a certificate: SHA-256 of its DER form in hex."""
    return hashlib.sha256(der).hexdigest()


def peer_pid(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other end of a unix socket."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("iii", raw)
    return pid, uid, gid


def identify(http: web.Request, db: Database) -> Identity:
    """Tell who sent the request: connecting to the socket is proof enough, as in LXD."""
    transport = http.transport
    if transport is None:
        return Identity(False, "", "")
    ssl_object = transport.get_extra_info("ssl_object")
    if ssl_object is None:
        return Identity(True, "unix", "root")
    der = ssl_object.getpeercert(True)
    if not der:
        return Identity(False, "tls", "")
    digest = fingerprint(der)
    for cert in certificates.find(db, digest):
        if cert.type == "metrics" and not http.path.startswith("/1.0/metrics"):
            return Identity(False, "tls", "", der)
        return Identity(True, "tls", digest, der, cert.restricted, frozenset(cert.projects))
    return Identity(False, "tls", "", der)
