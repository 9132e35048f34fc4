# SPDX-License-Identifier: Apache-2.0
"""A small rtnetlink client that can speak in another network namespace.

Reading all interfaces of a container takes a fraction of a millisecond this way; a program would
take tens of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from nova_lxd.lxd.host import syscalls

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_RTM_GETLINK, _RTM_SETLINK, _RTM_GETADDR = 18, 19, 22
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_STATS64, _IFLA_NET_NS_FD, _IFLA_LINK_NETNSID = (
    10,
    18,
    23,
    28,
    37,
)
_IFLA_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NLA_TYPE_MASK = 0x3FFF

IFF_UP, IFF_BROADCAST, IFF_LOOPBACK, IFF_POINTOPOINT = 0x1, 0x2, 0x8, 0x10
RT_SCOPE_GLOBAL, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_STATS = struct.Struct("=8Q")
_BUFFER = 1 << 17
_ARPHRD_LOOPBACK = 772


@dataclass(frozen=True)
class Link:
    """An interface; counters are of its own end."""

    index: int
    name: str
    flags: int
    hwaddr: str
    mtu: int
    kind: str  # veth, bridge, …; "" for a physical one
    master: int
    peer: int  # the index of a veth's other end or a macvlan's parent, 0 when none
    peer_elsewhere: bool  # that index counts in another network namespace
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True)
class Address:
    """An address of the interface ``index``."""

    index: int
    family: str  # inet, inet6
    address: str
    prefix: int
    scope: int


def _attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + padding


class Netlink:
    """A routing socket in one network namespace; not shared between threads."""

    def __init__(self, namespace: str = "") -> None:
        """:param namespace: path of a network namespace (``/proc/PID/ns/net``), "" for ours.

        :raises FileNotFoundError: the process that holds the namespace has ended.
        """
        self._sequence = 0
        with _inside(namespace):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def _request(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """Send a request: the payloads of its answers."""
        self._sequence += 1
        header = _HEADER.pack(
            _HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, self._sequence, 0
        )
        self._socket.send(header + body)
        while True:
            data = self._socket.recv(_BUFFER)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, answer, _flags, sequence, _pid = _HEADER.unpack_from(data, offset)
                payload = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", payload)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield payload

    def links(self) -> list[Link]:
        """Every interface of the namespace."""
        body = _IFINFO.pack(0, 0, 0, 0, 0)
        return [_link(payload) for payload in self._request(_RTM_GETLINK, _NLM_F_DUMP, body)]

    def link(self, name: str) -> Link | None:
        """One interface by name, None when there is none of it."""
        return next((link for link in self.links() if link.name == name), None)

    def addresses(self) -> list[Address]:
        """Every address of the namespace."""
        body = _IFADDR.pack(0, 0, 0, 0, 0)
        return [_address(payload) for payload in self._request(_RTM_GETADDR, _NLM_F_DUMP, body)]

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        name: str = "",
        mtu: int = 0,
        hwaddr: str = "",
        namespace: str = "",
    ) -> None:
        """Change an interface; with ``namespace`` (a path) move it there, renamed in one step.

        :raises OSError: EEXIST when the name is taken, EBUSY when the interface must be down.
        """
        flags = IFF_UP if up else 0
        body = _IFINFO.pack(0, 0, index, flags, 0 if up is None else IFF_UP)
        if name:
            body += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        if mtu:
            body += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
        if hwaddr:
            body += _attribute(_IFLA_ADDRESS, bytes.fromhex(hwaddr.replace(":", "")))
        with contextlib.ExitStack() as stack:
            if namespace:
                fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                body += _attribute(_IFLA_NET_NS_FD, struct.pack("=I", fd))
            for _ in self._request(_RTM_SETLINK, _NLM_F_ACK, body):
                raise OSError(0, "the kernel answered a change with data")


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Run a few lines of this thread in another network namespace."""
    if not namespace:
        yield
        return
    with contextlib.ExitStack() as stack:
        there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, there)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, home)
        syscalls.setns(there, syscalls.CLONE_NEWNET)
        stack.callback(syscalls.setns, home, syscalls.CLONE_NEWNET)
        yield


def _link(payload: bytes) -> Link:
    _family, kind, index, flags, _change = _IFINFO.unpack_from(payload)
    found = dict(_attributes(payload, _IFINFO.size))
    stats = (0,) * 8
    if _IFLA_STATS64 in found:
        stats = _STATS.unpack_from(found[_IFLA_STATS64])
    info = dict(_attributes(found.get(_IFLA_LINKINFO, b""), 0))
    hwaddr = found.get(_IFLA_ADDRESS, b"")
    return Link(
        index,
        found[_IFLA_IFNAME].rstrip(b"\0").decode("utf-8", "surrogateescape"),
        flags,
        "" if kind == _ARPHRD_LOOPBACK or len(hwaddr) != 6 else hwaddr.hex(":"),
        _number(found, _IFLA_MTU),
        info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        _number(found, _IFLA_MASTER),
        _number(found, _IFLA_LINK),
        _IFLA_LINK_NETNSID in found,
        *stats,
    )


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), "little")


def _address(payload: bytes) -> Address:
    family, prefix, _flags, scope, index = _IFADDR.unpack_from(payload)
    found = dict(_attributes(payload, _IFADDR.size))
    # On a point-to-point link IFA_ADDRESS is the other end.
    raw = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    name = "inet" if family == socket.AF_INET else "inet6"
    return Address(index, name, socket.inet_ntop(family, raw), prefix, scope)
