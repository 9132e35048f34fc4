# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes and neighbours of one network namespace, over rtnetlink.

The kernel is asked directly, so a call costs some tens of microseconds and fails with the kernel's
own errno: "no such device" is ``ENODEV``, "exists already" is ``EEXIST``, whatever the language of
a message.  Names of attributes are those of linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_IFALIAS, IFLA_PROTINFO, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO = 20, 12, 13, 16, 18
IFLA_NET_NS_PID, IFLA_STATS64, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 19, 23, 28, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER, IFLA_MACVLAN_MODE, IFLA_VLAN_ID = 1, 1, 1
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING = 1, 5, 7
IFLA_BR_BRIDGE_ID, IFLA_BR_VLAN_DEFAULT_PVID = 11, 39
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTPROT_BOOT, RTPROT_STATIC = 3, 4
NDA_DST, NTF_PROXY = 1, 8

IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_ATTR = struct.Struct("=HH")
_BUFFER = 1 << 17
_ARPHRD_TYPES = {1: "broadcast", 772: "loopback", 65534: "point-to-point", 768: "point-to-point"}


@dataclass(frozen=True)
class Counters:
    """Traffic of one interface since it was made, seen from the host's side."""

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    errors_received: int = 0
    errors_sent: int = 0
    packets_dropped_inbound: int = 0
    packets_dropped_outbound: int = 0


@dataclass(frozen=True)
class Link:
    """One network interface; ``kind`` is the driver ("veth", "bridge", …) or "" for hardware.

    ``link`` is the index of the lower device or of the veth peer; it is an index of the namespace
    ``link_netnsid`` when that is not None.
    """

    index: int
    name: str
    flags: int
    mtu: int
    address: str
    master: int
    link: int
    kind: str
    operstate: str
    hardware: str
    link_netnsid: int | None
    alias: str
    counters: Counters = field(repr=False)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True)
class BridgeSettings:
    """A bridge's own settings; ``forward_delay`` in hundredths of a second."""

    id: str
    stp: bool
    forward_delay: int
    vlan_default: int
    vlan_filtering: bool


@dataclass(frozen=True)
class Address:
    """One address of the interface ``index``."""

    index: int
    interface: Interface


@dataclass(frozen=True)
class Route:
    """One route; a default route has a destination with prefix length 0."""

    destination: Network
    gateway: IPAddress | None
    index: int
    table: int
    protocol: int


def _attr(kind: int, payload: bytes) -> bytes:
    return _ATTR.pack(_ATTR.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def _u32(kind: int, value: int) -> bytes:
    return _attr(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return _attr(kind, value.encode() + b"\0")


def _nest(kind: int, *attrs: bytes) -> bytes:
    return _attr(kind | NLA_F_NESTED, b"".join(attrs))


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTR.size <= len(data):
        length, kind = _ATTR.unpack_from(data, at)
        if length < _ATTR.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTR.size : at + length]
        at += (length + 3) & ~3
    return found


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _family(address: IPAddress | Interface | Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class Netlink:
    """An rtnetlink socket in one network namespace; calls from several threads are queued.

    Every method raises OSError with the kernel's errno and, where it gave one, its explanation.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = itertools.count(1)
        self._lock = threading.Lock()

    @classmethod
    def in_namespace(cls, netns: int) -> Netlink:
        """A socket in the namespace behind the file descriptor ``netns``.

        It is opened on a thread of its own that enters the namespace and ends: no other thread of
        the process ever leaves its namespace.
        """
        opened: list[Netlink] = []
        failed: list[OSError] = []

        def enter() -> None:
            try:
                _setns(netns)
                opened.append(cls())
            except OSError as exc:
                failed.append(exc)

        thread = threading.Thread(target=enter, name="netns")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return opened[0]

    @classmethod
    def of_process(cls, pid: int) -> Netlink:
        """A socket in the network namespace of a process."""
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls.in_namespace(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- messages ---------------------------------------------------------------------------

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        sequence = next(self._sequence) & 0xFFFFFFFF
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0)
        self._socket.send(header + body)
        return sequence

    def _replies(self, sequence: int) -> Iterator[tuple[int, int, bytes]]:
        while True:
            data = self._socket.recv(_BUFFER)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, flags, seq, _ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3
                if seq == sequence:
                    yield kind, flags, body

    def _request(self, kind: int, flags: int, body: bytes, what: str) -> None:
        with self._lock:
            sequence = self._send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)
            for reply, reply_flags, data in self._replies(sequence):
                if reply == NLMSG_ERROR:
                    _raise_for(data, reply_flags, what)
                    return

    def _dump(self, kind: int, body: bytes, what: str) -> list[bytes]:
        """All records of one kind; asked again when the kernel says that they changed."""
        for _ in range(20):
            records: list[bytes] = []
            interrupted = False
            with self._lock:
                sequence = self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
                for reply, flags, data in self._replies(sequence):
                    interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                    if reply == NLMSG_ERROR:
                        _raise_for(data, flags, what)
                    if reply in (NLMSG_DONE, NLMSG_ERROR):
                        break
                    records.append(data)
            if not interrupted:
                return records
        raise OSError(errno.EAGAIN, f"{what}: the table kept changing")

    # -- links ------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """All interfaces of the namespace, by index."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return [_link(data) for data in self._dump(RTM_GETLINK, body, "list interfaces")]

    def link(self, name: str) -> Link:
        """One interface by name.  ENODEV: there is none."""
        return self._get_link(_IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name), name)

    def link_by_index(self, index: int) -> Link:
        """One interface by index.  ENODEV: there is none."""
        return self._get_link(_IFINFO.pack(0, 0, index, 0, 0), f"#{index}")

    def bridge_settings(self, index: int) -> BridgeSettings:
        """The settings of a bridge.  ENODEV: it is gone."""
        data = self._get(_IFINFO.pack(0, 0, index, 0, 0), f"#{index}")
        info = _attributes(_attributes(data[_IFINFO.size :])[IFLA_LINKINFO])
        attrs = _attributes(info.get(IFLA_INFO_DATA, b""))

        def number(kind: int) -> int:
            # The kernel is of this machine's byte order in these, of two widths and more.
            return int.from_bytes(attrs.get(kind, b""), sys.byteorder)

        identity = attrs.get(IFLA_BR_BRIDGE_ID, bytes(8))
        return BridgeSettings(
            id=f"{identity[:2].hex()}.{identity[2:].hex()}",
            stp=number(IFLA_BR_STP_STATE) != 0,
            forward_delay=number(IFLA_BR_FORWARD_DELAY),
            vlan_default=number(IFLA_BR_VLAN_DEFAULT_PVID),
            vlan_filtering=number(IFLA_BR_VLAN_FILTERING) != 0,
        )

    def _get_link(self, body: bytes, name: str) -> Link:
        return _link(self._get(body, name))

    def _get(self, body: bytes, name: str) -> bytes:
        with self._lock:
            sequence = self._send(RTM_GETLINK, NLM_F_REQUEST, body)
            for reply, flags, data in self._replies(sequence):
                if reply == NLMSG_ERROR:
                    _raise_for(data, flags, f"look up interface {name}")
                return data
        raise OSError(errno.ENODEV, f"look up interface {name}")

    def find(self, name: str) -> Link | None:
        """One interface by name, None when there is none."""
        try:
            return self.link(name)
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise
            return None

    def _create(self, name: str, kind: str, info: bytes, extra: bytes) -> None:
        linkinfo = [_attr(IFLA_INFO_KIND, kind.encode())]
        if info:
            linkinfo.append(_nest(IFLA_INFO_DATA, info))
        body = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + _text(IFLA_IFNAME, name)
            + extra
            + _nest(IFLA_LINKINFO, *linkinfo)
        )
        self._request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"create {kind} {name}")

    def create_bridge(self, name: str, *, mtu: int | None = None, address: str = "") -> None:
        """Make a bridge.  EEXIST: the name is taken."""
        self._create(name, "bridge", b"", _common(mtu, address))

    def create_veth(
        self,
        name: str,
        peer: str,
        *,
        mtu: int | None = None,
        address: str = "",
        peer_address: str = "",
    ) -> None:
        """Make a veth pair, both ends down and in this namespace.  EEXIST: a name is taken."""
        other = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, peer) + _common(mtu, peer_address)
        self._create(name, "veth", _nest(VETH_INFO_PEER, other), _common(mtu, address))

    def create_macvlan(
        self, name: str, parent: int, *, mode: str, mtu: int | None = None, address: str = ""
    ) -> None:
        """Make a macvlan on top of the interface ``parent``; ``mode`` as in MACVLAN_MODES."""
        info = _u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
        extra = _u32(IFLA_LINK, parent) + _common(mtu, address)
        self._create(name, "macvlan", info, extra)

    def create_vlan(self, name: str, parent: int, vlan: int) -> None:
        """Make a VLAN interface.  EOPNOTSUPP: the kernel has no 8021q."""
        info = _attr(IFLA_VLAN_ID, struct.pack("=H", vlan))
        self._create(name, "vlan", info, _u32(IFLA_LINK, parent))

    def delete_link(self, index: int) -> None:
        """Remove an interface (and its veth peer).  ENODEV: it is gone already."""
        self._request(
            RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0), f"delete interface #{index}"
        )

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        address: str = "",
        name: str = "",
        master: int | None = None,
        txqueuelen: int | None = None,
        alias: str | None = None,
        netns: int | None = None,
        netns_pid: int | None = None,
    ) -> None:
        """Change an interface in one step; ``master=0`` takes it out of its bridge.

        With ``netns`` (a file descriptor) or ``netns_pid`` it moves there; a ``name`` given along
        is the one it has after the move.
        """
        attrs = _common(mtu, address)
        if name:
            attrs += _text(IFLA_IFNAME, name)
        if master is not None:
            attrs += _u32(IFLA_MASTER, master)
        if txqueuelen is not None:
            attrs += _u32(IFLA_TXQLEN, txqueuelen)
        if alias is not None:
            attrs += _attr(IFLA_IFALIAS, alias.encode())
        if netns is not None:
            attrs += _u32(IFLA_NET_NS_FD, netns)
        if netns_pid is not None:
            attrs += _u32(IFLA_NET_NS_PID, netns_pid)
        flags = IFF_UP if up else 0
        body = _IFINFO.pack(0, 0, index, flags, 0 if up is None else IFF_UP) + attrs
        self._request(RTM_NEWLINK, 0, body, f"change interface #{index}")

    def set_bridge_port(
        self, index: int, *, hairpin: bool | None = None, isolated: bool | None = None
    ) -> None:
        """Change the flags of a bridge's port."""
        flags = b""
        for kind, value in ((IFLA_BRPORT_MODE, hairpin), (IFLA_BRPORT_ISOLATED, isolated)):
            if value is not None:
                flags += _attr(kind, bytes([value]))
        body = _IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + _nest(IFLA_PROTINFO, flags)
        self._request(RTM_SETLINK, 0, body, f"change bridge port #{index}")

    # -- addresses --------------------------------------------------------------------------

    def addresses(self, index: int | None = None) -> list[Address]:
        """All addresses of the namespace, or those of one interface."""
        body = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        found = [_address(data) for data in self._dump(RTM_GETADDR, body, "list addresses")]
        return [item for item in found if index is None or item.index == index]

    def add_address(self, index: int, interface: Interface) -> None:
        """Give an interface an address, usable at once (no duplicate detection); idempotent."""
        self._address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, interface, "add")

    def delete_address(self, index: int, interface: Interface) -> None:
        """Take an address away.  EADDRNOTAVAIL: the interface does not have it."""
        self._address(RTM_DELADDR, 0, index, interface, "delete")

    def _address(self, kind: int, flags: int, index: int, address: Interface, verb: str) -> None:
        packed = address.ip.packed
        attrs = _attr(IFA_LOCAL, packed) + _attr(IFA_ADDRESS, packed)
        if isinstance(address, ipaddress.IPv4Interface):
            if address.network.prefixlen < 31:
                attrs += _attr(IFA_BROADCAST, address.network.broadcast_address.packed)
        else:
            attrs += _u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_PERMANENT)
        scope = 253 if address.ip.is_link_local else 0
        prefix = address.network.prefixlen
        body = _IFADDR.pack(_family(address), prefix, IFA_F_PERMANENT, scope, index) + attrs
        self._request(kind, flags, body, f"{verb} address {address}")

    # -- routes and neighbours --------------------------------------------------------------

    def routes(self) -> list[Route]:
        """All unicast routes of all tables and both families."""
        found: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for data in self._dump(RTM_GETROUTE, body, "list routes"):
                route = _route(data)
                if route is not None:
                    found.append(route)
        return found

    def add_route(
        self,
        destination: Network,
        index: int,
        *,
        gateway: IPAddress | None = None,
        table: int = RT_TABLE_MAIN,
        protocol: int = RTPROT_BOOT,
    ) -> None:
        """Add or replace a route through an interface."""
        self._route(
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            destination,
            index,
            gateway,
            table,
            protocol,
        )

    def delete_route(
        self, destination: Network, index: int, *, table: int = RT_TABLE_MAIN
    ) -> None:
        """Remove a route.  ESRCH: there is none."""
        self._route(RTM_DELROUTE, 0, destination, index, None, table, 0)

    def _route(
        self,
        kind: int,
        flags: int,
        destination: Network,
        index: int,
        gateway: IPAddress | None,
        table: int,
        protocol: int,
    ) -> None:
        scope = 253 if destination.version == 4 and gateway is None else 0
        if kind == RTM_DELROUTE:
            scope = 255
        attrs = _u32(RTA_OIF, index) + _u32(RTA_TABLE, table)
        if destination.prefixlen:
            attrs += _attr(RTA_DST, destination.network_address.packed)
        if gateway is not None:
            attrs += _attr(RTA_GATEWAY, gateway.packed)
        # The field of the header holds eight bits; the attribute says the whole number.
        short = table if table < 256 else 0
        body = _RTMSG.pack(
            _family(destination), destination.prefixlen, 0, 0, short, protocol, scope, 1, 0
        )
        verb = "add" if kind == RTM_NEWROUTE else "delete"
        self._request(kind, flags, body + attrs, f"{verb} route {destination}")

    def add_proxy_neighbour(self, address: IPAddress, index: int) -> None:
        """Have the host answer ARP or NDP for ``address`` on an interface; idempotent."""
        body = _NDMSG.pack(_family(address), index, 0, NTF_PROXY, 0)
        self._request(
            RTM_NEWNEIGH,
            NLM_F_CREATE | NLM_F_REPLACE,
            body + _attr(NDA_DST, address.packed),
            f"add neighbour proxy {address}",
        )

    def delete_proxy_neighbour(self, address: IPAddress, index: int) -> None:
        """Take a neighbour proxy away.  ENOENT: there is none."""
        body = _NDMSG.pack(_family(address), index, 0, NTF_PROXY, 0)
        self._request(
            RTM_DELNEIGH,
            0,
            body + _attr(NDA_DST, address.packed),
            f"delete neighbour proxy {address}",
        )


def _setns(netns: int) -> None:
    from nova_lxd.lxd.host import syscalls

    syscalls.setns(netns, syscalls.CLONE_NEWNET)


def _common(mtu: int | None, address: str) -> bytes:
    attrs = b""
    if mtu is not None:
        attrs += _u32(IFLA_MTU, mtu)
    if address:
        attrs += _attr(IFLA_ADDRESS, _mac(address))
    return attrs


def _raise_for(data: bytes, flags: int, what: str) -> None:
    code = -struct.unpack_from("=i", data)[0]
    if code == 0:
        return
    reason = ""
    if flags & NLM_F_ACK_TLVS:
        at = 4 + _HEADER.size
        if not flags & NLM_F_CAPPED:
            at += struct.unpack_from("=I", data, 4)[0] - _HEADER.size
        reason = _string(_attributes(data[at:]).get(1, b""))
    raise OSError(code, f"{what}: {reason or os.strerror(code)}")


def _link(data: bytes) -> Link:
    _, hardware, index, flags, _ = _IFINFO.unpack_from(data)
    attrs = _attributes(data[_IFINFO.size :])

    def number(kind: int) -> int:
        return struct.unpack("=I", attrs[kind])[0] if kind in attrs else 0

    state = attrs.get(IFLA_OPERSTATE, b"\0")[0]
    info = _attributes(attrs.get(IFLA_LINKINFO, b""))
    stats = struct.unpack_from("=8Q", attrs[IFLA_STATS64]) if IFLA_STATS64 in attrs else (0,) * 8
    netnsid = attrs.get(IFLA_LINK_NETNSID)
    return Link(
        index=index,
        name=_string(attrs.get(IFLA_IFNAME, b"")),
        flags=flags,
        mtu=number(IFLA_MTU),
        address=attrs.get(IFLA_ADDRESS, b"").hex(":"),
        master=number(IFLA_MASTER),
        link=number(IFLA_LINK),
        kind=_string(info.get(IFLA_INFO_KIND, b"")),
        operstate=OPERSTATES[state] if state < len(OPERSTATES) else "unknown",
        hardware=_ARPHRD_TYPES.get(hardware, "unknown"),
        link_netnsid=struct.unpack("=i", netnsid)[0] if netnsid else None,
        alias=_string(attrs.get(IFLA_IFALIAS, b"")),
        counters=Counters(
            packets_received=stats[0],
            packets_sent=stats[1],
            bytes_received=stats[2],
            bytes_sent=stats[3],
            errors_received=stats[4],
            errors_sent=stats[5],
            packets_dropped_inbound=stats[6],
            packets_dropped_outbound=stats[7],
        ),
    )


def _address(data: bytes) -> Address:
    _, prefix, _, _, index = _IFADDR.unpack_from(data)
    attrs = _attributes(data[_IFADDR.size :])
    packed = attrs.get(IFA_LOCAL) or attrs[IFA_ADDRESS]
    return Address(index=index, interface=ipaddress.ip_interface((packed, prefix)))


def _route(data: bytes) -> Route | None:
    family, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(data)
    if kind != 1 or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attrs = _attributes(data[_RTMSG.size :])
    packed = attrs.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    gateway = attrs.get(RTA_GATEWAY)
    return Route(
        destination=ipaddress.ip_network((packed, length), strict=False),
        gateway=ipaddress.ip_address(gateway) if gateway else None,
        index=struct.unpack("=I", attrs[RTA_OIF])[0] if RTA_OIF in attrs else 0,
        table=struct.unpack("=I", attrs[RTA_TABLE])[0] if RTA_TABLE in attrs else table,
        protocol=protocol,
    )
