# SPDX-License-Identifier: Apache-2.0
"""What dnsmasq knows of the nics: a host file per nic that we write, a lease file it writes."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nova_lxd.lxd.errors import Conflict
from nova_lxd.lxd.host.netlink import IPAddress
from nova_lxd.lxd.network.interface import HostEntry

AUTO = "auto"
"""The address of a HostEntry that asks for a free one out of the DHCP range."""

_SO_BINDTODEVICE = 25
_MAGIC = b"\x63\x82\x53\x63"


@dataclass(frozen=True)
class LeaseLine:
    """One line of dnsmasq's lease file; ``hwaddr`` is empty when a DUID does not tell it."""

    expiry: int
    hwaddr: str
    address: IPAddress
    hostname: str
    client_id: str


@dataclass(frozen=True)
class Range:
    """Addresses ``first`` to ``last``, both included."""

    first: IPAddress
    last: IPAddress

    @classmethod
    def parse(cls, text: str) -> Range:
        first, _, last = text.partition("-")
        return cls(ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip()))


class HostFiles:
    """The directory of host files of one network (``dnsmasq.hosts``)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _file(self, owner: str, device: str) -> Path:
        return self.directory / f"{owner}.{device.replace('/', '-')}"

    def entries(self) -> list[HostEntry]:
        """Every recorded nic."""
        found = []
        for file in sorted(self.directory.glob("[!.]*")):
            with contextlib.suppress(FileNotFoundError):  # Removed since it was listed.
                found.append(_parse_entry(file.name, file.read_text()))
        return found

    def find(self, owner: str, device: str) -> HostEntry | None:
        file = self._file(owner, device)
        try:
            return _parse_entry(file.name, file.read_text())
        except FileNotFoundError:
            return None

    def write(self, entry: HostEntry) -> bool:
        """Record a nic; False when the file says so already.

        dnsmasq skips names that begin with a dot, so it never reads a half written file.
        """
        file = self._file(entry.owner, entry.device)
        text = _render_entry(entry)
        if file.exists() and file.read_text() == text:
            return False
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = self.directory / f".{file.name}.new"
        draft.write_text(text)
        draft.chmod(0o644)
        draft.replace(file)
        return True

    def remove(self, owner: str, device: str) -> HostEntry | None:
        """Forget a nic and return what was recorded, None when nothing was."""
        entry = self.find(owner, device)
        self._file(owner, device).unlink(missing_ok=True)
        return entry


def _render_entry(entry: HostEntry) -> str:
    parts = [entry.hwaddr.lower()]
    if entry.ipv4:
        parts.append(entry.ipv4)
    if entry.ipv6:
        parts.append(f"[{entry.ipv6}]")
    if entry.hostname:
        parts.append(entry.hostname)
    return ",".join(parts) + "\n"


def _parse_entry(file_name: str, text: str) -> HostEntry:
    owner, _, device = file_name.partition(".")
    hwaddr, *rest = text.strip().split(",")
    ipv4 = ipv6 = hostname = ""
    for part in rest:
        if part.startswith("["):
            ipv6 = part.strip("[]")
        elif part.count(".") == 3 and part.replace(".", "").isdigit():
            ipv4 = part
        else:
            hostname = part
    return HostEntry(owner, device, hwaddr, hostname, ipv4, ipv6)


def allocate(
    entry: HostEntry,
    others: Iterable[HostEntry],
    leases: Iterable[LeaseLine],
    ranges: Sequence[Range],
    reserved: Iterable[IPAddress],
) -> HostEntry:
    """The entry with ``auto`` addresses replaced by free ones out of the ranges.

    An address that the nic holds by a lease already is kept.  The choice starts at a place that
    the MAC address decides, so that a nic tends to get the same address again.

    :raises Conflict: every address of the ranges is taken.
    """
    if AUTO not in (entry.ipv4, entry.ipv6):
        return entry
    others, leases, used = list(others), list(leases), set(reserved)
    for other in others:
        used |= {ipaddress.ip_address(text) for text in (other.ipv4, other.ipv6) if text}
    used |= {lease.address for lease in leases if lease.hwaddr != entry.hwaddr}
    held = [lease.address for lease in leases if lease.hwaddr == entry.hwaddr]
    for version, key in ((4, "ipv4"), (6, "ipv6")):
        if getattr(entry, key) != AUTO:
            continue
        mine = [r for r in ranges if r.first.version == version]
        kept = next(
            (a for a in held if a.version == version and a not in used and _inside(a, mine)), None
        )
        entry = replace(entry, **{key: str(kept or _free(entry.hwaddr, mine, used))})
    return entry


def _inside(address: IPAddress, ranges: Sequence[Range]) -> bool:
    return any(int(r.first) <= int(address) <= int(r.last) for r in ranges)


def _free(hwaddr: str, ranges: Sequence[Range], used: set[IPAddress]) -> IPAddress:
    seed = int.from_bytes(hashlib.sha256(hwaddr.encode()).digest()[:8])
    for span in ranges:
        count = int(span.last) - int(span.first) + 1
        for step in range(min(count, len(used) + 1)):
            candidate = span.first + (seed + step) % count
            if candidate not in used:
                return candidate
    raise Conflict("No free address is left in the network's DHCP ranges; make them larger")


def read_leases(file: Path) -> list[LeaseLine]:
    """The leases in dnsmasq's file; none when it has not been written yet."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) != 5:
            continue  # The line "duid …" names dnsmasq itself.
        expiry, identity, address, hostname, client = fields
        parsed = ipaddress.ip_address(address)
        hwaddr = identity.split("-")[-1].lower() if parsed.version == 4 else _duid_mac(client)
        name = "" if hostname == "*" else hostname
        found.append(LeaseLine(int(expiry), hwaddr, parsed, name, client))
    return found


def _duid_mac(duid: str) -> str:
    """The MAC address in a DUID of type 1 (link layer and time) or 3 (link layer), else ""."""
    octets = duid.split(":")
    if octets[:2] in (["00", "01"], ["00", "03"]) and len(octets) >= 10:
        return ":".join(octets[-6:]).lower()
    return ""


def release(interface: str, server: str, lease: LeaseLine) -> None:
    """Tell the DHCPv4 server on ``interface`` that a lease is given back (RFC 2131, DHCPRELEASE).

    The server frees the address as if the guest had sent it.

    :raises OSError: the packet cannot be sent.
    """
    hardware = bytes.fromhex(lease.hwaddr.replace(":", ""))
    packet = struct.pack(
        "!BBBB4sHH4s4s4s4s16s64s128s",
        1,
        1,
        6,
        0,
        secrets.token_bytes(4),
        0,
        0,
        lease.address.packed,
        bytes(4),
        bytes(4),
        bytes(4),
        hardware,
        b"",
        b"",
    )
    options = bytes([53, 1, 7, 54, 4]) + socket.inet_aton(server)
    if lease.client_id != "*":
        client = bytes.fromhex(lease.client_id.replace(":", ""))
        options += bytes([61, len(client)]) + client
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, os.fsencode(interface) + b"\0")
        sock.sendto(packet + _MAGIC + options + b"\xff", (server, 67))
