# SPDX-License-Identifier: Apache-2.0
"""rtnetlink's messages: their numbers, their packing, and the records in the kernel's answers.

Names are those of linux/if_link.h, if_addr.h, rtnetlink.h and neighbour.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass, field

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
RTM_NEWNSID, RTM_GETNSID = 88, 90

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_IFALIAS, IFLA_PROTINFO, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO = 20, 12, 13, 16, 18
IFLA_NET_NS_PID, IFLA_STATS64, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 19, 23, 28, 37
IFLA_TARGET_NETNSID, IFA_TARGET_NETNSID = 46, 10
NETNSA_NSID, NETNSA_PID = 1, 2
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

IFF_UP, IFF_BROADCAST, IFF_LOOPBACK, IFF_POINTOPOINT = 0x1, 0x2, 0x8, 0x10

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")

HEADER = struct.Struct("=IHHII")
IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
_ATTR = struct.Struct("=HH")
_HARDWARE = (
    (IFF_LOOPBACK, "loopback"),
    (IFF_POINTOPOINT, "point-to-point"),
    (IFF_BROADCAST, "broadcast"),
)


@dataclass(frozen=True)
class Counters:
    """Traffic of one interface since it was made, seen from the interface."""

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
    ``link_netnsid`` when that is not None.  ``hardware`` is broadcast, loopback, point-to-point or
    unknown.
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

    @property
    def hwaddr(self) -> str:
        """The hardware address as LXD shows it: "" for a loopback, and where it is no MAC."""
        return "" if self.hardware == "loopback" or len(self.address) != 17 else self.address


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

    @property
    def scope(self) -> str:
        """LXD's word for how far the address reaches: global, link or local."""
        if self.interface.ip.is_loopback:
            return "local"
        return "link" if self.interface.ip.is_link_local else "global"


@dataclass(frozen=True)
class Route:
    """One route; a default route has a destination with prefix length 0."""

    destination: Network
    gateway: IPAddress | None
    index: int
    table: int
    protocol: int


def attr(kind: int, payload: bytes) -> bytes:
    return _ATTR.pack(_ATTR.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def nest(kind: int, *attrs: bytes) -> bytes:
    return attr(kind | NLA_F_NESTED, b"".join(attrs))


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def attributes(data: bytes) -> dict[int, bytes]:
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


def family_of(address: IPAddress | Interface | Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def common_attributes(mtu: int | None, address: str) -> bytes:
    attrs = b""
    if mtu is not None:
        attrs += u32(IFLA_MTU, mtu)
    if address:
        attrs += attr(IFLA_ADDRESS, _mac(address))
    return attrs


def raise_for(data: bytes, flags: int, what: str) -> None:
    code = -struct.unpack_from("=i", data)[0]
    if code == 0:
        return
    reason = ""
    if flags & NLM_F_ACK_TLVS:
        at = 4 + HEADER.size
        if not flags & NLM_F_CAPPED:
            at += struct.unpack_from("=I", data, 4)[0] - HEADER.size
        reason = _string(attributes(data[at:]).get(1, b""))
    raise OSError(code, f"{what}: {reason or os.strerror(code)}")


def link_of(data: bytes) -> Link:
    _, _, index, flags, _ = IFINFO.unpack_from(data)
    attrs = attributes(data[IFINFO.size :])

    def number(kind: int) -> int:
        return struct.unpack("=I", attrs[kind])[0] if kind in attrs else 0

    state = attrs.get(IFLA_OPERSTATE, b"\0")[0]
    info = attributes(attrs.get(IFLA_LINKINFO, b""))
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
        hardware=next((name for flag, name in _HARDWARE if flags & flag), "unknown"),
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


def address_parts(data: bytes) -> tuple[int, bytes, int]:
    """(index of the interface, packed address, length of the prefix)."""
    _, prefix, _, _, index = IFADDR.unpack_from(data)
    attrs = attributes(data[IFADDR.size :])
    return index, attrs.get(IFA_LOCAL) or attrs[IFA_ADDRESS], prefix


def address_of(data: bytes) -> Address:
    index, packed, prefix = address_parts(data)
    return Address(index=index, interface=ipaddress.ip_interface((packed, prefix)))


def route_of(data: bytes) -> Route | None:
    family, length, _, _, table, protocol, _, kind, _ = RTMSG.unpack_from(data)
    if kind != 1 or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attrs = attributes(data[RTMSG.size :])
    packed = attrs.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    gateway = attrs.get(RTA_GATEWAY)
    return Route(
        destination=ipaddress.ip_network((packed, length), strict=False),
        gateway=ipaddress.ip_address(gateway) if gateway else None,
        index=struct.unpack("=I", attrs[RTA_OIF])[0] if RTA_OIF in attrs else 0,
        table=struct.unpack("=I", attrs[RTA_TABLE])[0] if RTA_TABLE in attrs else table,
        protocol=protocol,
    )
