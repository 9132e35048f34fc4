# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes and neighbours of one network namespace, over rtnetlink.

The kernel is asked directly, so a call costs some tens of microseconds and fails with the kernel's
own errno: "no such device" is ``ENODEV``, "exists already" is ``EEXIST``, whatever the language of
a message.
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
from typing import Self

from nova_lxd.lxd.host import netlink_records as wire
from nova_lxd.lxd.host import syscalls
from nova_lxd.lxd.host.netlink_records import (
    Address,
    BridgeSettings,
    Counters,
    Interface,
    IPAddress,
    Link,
    Network,
    Route,
)

__all__ = [
    "Address",
    "Counters",
    "IPAddress",
    "Interface",
    "Link",
    "Netlink",
    "Network",
    "Route",
]

_BUFFER = 1 << 17


class Netlink:
    """An rtnetlink socket in one network namespace; calls from several threads are queued.

    Every method raises OSError with the kernel's errno and, where it gave one, its explanation.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        # Checked strictly, or a dump of addresses would pass over the namespace it is asked for.
        for option in (wire.NETLINK_CAP_ACK, wire.NETLINK_EXT_ACK, wire.NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(wire.SOL_NETLINK, option, 1)
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
                syscalls.setns(netns, syscalls.CLONE_NEWNET)
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

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- messages ---------------------------------------------------------------------------

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        sequence = next(self._sequence) & 0xFFFFFFFF
        header = wire.HEADER.pack(wire.HEADER.size + len(body), kind, flags, sequence, 0)
        self._socket.send(header + body)
        return sequence

    def _replies(self, sequence: int) -> Iterator[tuple[int, int, bytes]]:
        while True:
            data = self._socket.recv(_BUFFER)
            at = 0
            while at + wire.HEADER.size <= len(data):
                length, kind, flags, seq, _ = wire.HEADER.unpack_from(data, at)
                body = data[at + wire.HEADER.size : at + length]
                at += (length + 3) & ~3
                if seq == sequence:
                    yield kind, flags, body

    def _request(self, kind: int, flags: int, body: bytes, what: str) -> None:
        with self._lock:
            sequence = self._send(kind, wire.NLM_F_REQUEST | wire.NLM_F_ACK | flags, body)
            for reply, reply_flags, data in self._replies(sequence):
                if reply == wire.NLMSG_ERROR:
                    wire.raise_for(data, reply_flags, what)
                    return

    def _dump(self, kind: int, body: bytes, what: str) -> list[bytes]:
        """All records of one kind; asked again when the kernel says that they changed."""
        for _ in range(20):
            records: list[bytes] = []
            interrupted = False
            with self._lock:
                sequence = self._send(kind, wire.NLM_F_REQUEST | wire.NLM_F_DUMP, body)
                for reply, flags, data in self._replies(sequence):
                    interrupted = interrupted or bool(flags & wire.NLM_F_DUMP_INTR)
                    if reply == wire.NLMSG_ERROR:
                        wire.raise_for(data, flags, what)
                    if reply in (wire.NLMSG_DONE, wire.NLMSG_ERROR):
                        break
                    records.append(data)
            if not interrupted:
                return records
        raise OSError(errno.EAGAIN, f"{what}: the table kept changing")

    # -- links ------------------------------------------------------------------------------

    def links(self, nsid: int | None = None) -> list[Link]:
        """All interfaces of the namespace, or of the one with this :meth:`namespace_id`."""
        body = wire.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        if nsid is not None:
            body += wire.u32(wire.IFLA_TARGET_NETNSID, nsid)
        return [
            wire.link_of(data) for data in self._dump(wire.RTM_GETLINK, body, "list interfaces")
        ]

    def link(self, name: str) -> Link:
        """One interface by name.  ENODEV: there is none."""
        return self._get_link(
            wire.IFINFO.pack(0, 0, 0, 0, 0) + wire.text(wire.IFLA_IFNAME, name), name
        )

    def link_by_index(self, index: int) -> Link:
        """One interface by index.  ENODEV: there is none."""
        return self._get_link(wire.IFINFO.pack(0, 0, index, 0, 0), f"#{index}")

    def bridge_settings(self, index: int) -> BridgeSettings:
        """The settings of a bridge.  ENODEV: it is gone."""
        data = self._get(wire.IFINFO.pack(0, 0, index, 0, 0), f"#{index}")
        info = wire.attributes(wire.attributes(data[wire.IFINFO.size :])[wire.IFLA_LINKINFO])
        attrs = wire.attributes(info.get(wire.IFLA_INFO_DATA, b""))

        def number(kind: int) -> int:
            # The kernel is of this machine's byte order in these, of two widths and more.
            return int.from_bytes(attrs.get(kind, b""), sys.byteorder)

        identity = attrs.get(wire.IFLA_BR_BRIDGE_ID, bytes(8))
        return BridgeSettings(
            id=f"{identity[:2].hex()}.{identity[2:].hex()}",
            stp=number(wire.IFLA_BR_STP_STATE) != 0,
            forward_delay=number(wire.IFLA_BR_FORWARD_DELAY),
            vlan_default=number(wire.IFLA_BR_VLAN_DEFAULT_PVID),
            vlan_filtering=number(wire.IFLA_BR_VLAN_FILTERING) != 0,
        )

    def _get_link(self, body: bytes, name: str) -> Link:
        return wire.link_of(self._get(body, name))

    def _get(self, body: bytes, name: str) -> bytes:
        with self._lock:
            sequence = self._send(wire.RTM_GETLINK, wire.NLM_F_REQUEST, body)
            for reply, flags, data in self._replies(sequence):
                if reply == wire.NLMSG_ERROR:
                    wire.raise_for(data, flags, f"look up interface {name}")
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
        linkinfo = [wire.attr(wire.IFLA_INFO_KIND, kind.encode())]
        if info:
            linkinfo.append(wire.nest(wire.IFLA_INFO_DATA, info))
        body = (
            wire.IFINFO.pack(0, 0, 0, 0, 0)
            + wire.text(wire.IFLA_IFNAME, name)
            + extra
            + wire.nest(wire.IFLA_LINKINFO, *linkinfo)
        )
        self._request(
            wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, f"create {kind} {name}"
        )

    def create_bridge(self, name: str, *, mtu: int | None = None, address: str = "") -> None:
        """Make a bridge.  EEXIST: the name is taken."""
        self._create(name, "bridge", b"", wire.common_attributes(mtu, address))

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
        other = (
            wire.IFINFO.pack(0, 0, 0, 0, 0)
            + wire.text(wire.IFLA_IFNAME, peer)
            + wire.common_attributes(mtu, peer_address)
        )
        self._create(
            name,
            "veth",
            wire.nest(wire.VETH_INFO_PEER, other),
            wire.common_attributes(mtu, address),
        )

    def create_macvlan(
        self, name: str, parent: int, *, mode: str, mtu: int | None = None, address: str = ""
    ) -> None:
        """Make a macvlan on top of the interface ``parent``; ``mode`` as in wire.MACVLAN_MODES."""
        info = wire.u32(wire.IFLA_MACVLAN_MODE, wire.MACVLAN_MODES[mode])
        extra = wire.u32(wire.IFLA_LINK, parent) + wire.common_attributes(mtu, address)
        self._create(name, "macvlan", info, extra)

    def create_vlan(self, name: str, parent: int, vlan: int) -> None:
        """Make a VLAN interface.  EOPNOTSUPP: the kernel has no 8021q."""
        info = wire.attr(wire.IFLA_VLAN_ID, struct.pack("=H", vlan))
        self._create(name, "vlan", info, wire.u32(wire.IFLA_LINK, parent))

    def delete_link(self, index: int) -> None:
        """Remove an interface (and its veth peer).  ENODEV: it is gone already."""
        self._request(
            wire.RTM_DELLINK, 0, wire.IFINFO.pack(0, 0, index, 0, 0), f"delete interface #{index}"
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
        attrs = wire.common_attributes(mtu, address)
        if name:
            attrs += wire.text(wire.IFLA_IFNAME, name)
        if master is not None:
            attrs += wire.u32(wire.IFLA_MASTER, master)
        if txqueuelen is not None:
            attrs += wire.u32(wire.IFLA_TXQLEN, txqueuelen)
        if alias is not None:
            attrs += wire.attr(wire.IFLA_IFALIAS, alias.encode())
        if netns is not None:
            attrs += wire.u32(wire.IFLA_NET_NS_FD, netns)
        if netns_pid is not None:
            attrs += wire.u32(wire.IFLA_NET_NS_PID, netns_pid)
        flags = wire.IFF_UP if up else 0
        body = wire.IFINFO.pack(0, 0, index, flags, 0 if up is None else wire.IFF_UP) + attrs
        self._request(wire.RTM_NEWLINK, 0, body, f"change interface #{index}")

    def set_bridge_port(
        self, index: int, *, hairpin: bool | None = None, isolated: bool | None = None
    ) -> None:
        """Change the flags of a bridge's port."""
        flags = b""
        for kind, value in (
            (wire.IFLA_BRPORT_MODE, hairpin),
            (wire.IFLA_BRPORT_ISOLATED, isolated),
        ):
            if value is not None:
                flags += wire.attr(kind, bytes([value]))
        body = wire.IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + wire.nest(
            wire.IFLA_PROTINFO, flags
        )
        self._request(wire.RTM_SETLINK, 0, body, f"change bridge port #{index}")

    # -- other namespaces -------------------------------------------------------------------

    def namespace_id(self, pid: int) -> int:
        """The number by which this namespace knows that of a process; it is given one if need be.

        ESRCH: the process has ended.
        """
        while True:
            known = self._known_namespace_id(pid)
            if known >= 0:
                return known
            body = struct.pack("=I", 0) + wire.u32(wire.NETNSA_PID, pid)
            try:
                # -1: any number that is free.
                self._request(
                    wire.RTM_NEWNSID,
                    0,
                    body + wire.u32(wire.NETNSA_NSID, 0xFFFFFFFF),
                    f"number the network namespace of process {pid}",
                )
            except FileExistsError:  # another thread did
                continue

    def _known_namespace_id(self, pid: int) -> int:
        body = struct.pack("=I", 0) + wire.u32(wire.NETNSA_PID, pid)
        what = f"look up the network namespace of process {pid}"
        with self._lock:
            sequence = self._send(wire.RTM_GETNSID, wire.NLM_F_REQUEST, body)
            for reply, flags, data in self._replies(sequence):
                if reply == wire.NLMSG_ERROR:
                    wire.raise_for(data, flags, what)
                number: int = struct.unpack("=i", wire.attributes(data[4:])[wire.NETNSA_NSID])[0]
                return number
        raise OSError(errno.ESRCH, what)

    def address_records(self, nsid: int) -> list[tuple[int, bytes, int]]:
        """(interface's index, packed address, length of its prefix) of all in a namespace."""
        body = wire.IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        body += wire.u32(wire.IFA_TARGET_NETNSID, nsid)
        found = self._dump(wire.RTM_GETADDR, body, f"list addresses of namespace {nsid}")
        return [wire.address_parts(data) for data in found]

    # -- addresses --------------------------------------------------------------------------

    def addresses(self, index: int | None = None) -> list[Address]:
        """All addresses of the namespace, or those of one interface."""
        body = wire.IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        found = [
            wire.address_of(data) for data in self._dump(wire.RTM_GETADDR, body, "list addresses")
        ]
        return [item for item in found if index is None or item.index == index]

    def add_address(self, index: int, interface: Interface) -> None:
        """Give an interface an address, usable at once (no duplicate detection); idempotent."""
        self._address(
            wire.RTM_NEWADDR, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, index, interface, "add"
        )

    def delete_address(self, index: int, interface: Interface) -> None:
        """Take an address away.  EADDRNOTAVAIL: the interface does not have it."""
        self._address(wire.RTM_DELADDR, 0, index, interface, "delete")

    def _address(self, kind: int, flags: int, index: int, address: Interface, verb: str) -> None:
        packed = address.ip.packed
        attrs = wire.attr(wire.IFA_LOCAL, packed) + wire.attr(wire.IFA_ADDRESS, packed)
        if isinstance(address, ipaddress.IPv4Interface):
            if address.network.prefixlen < 31:
                attrs += wire.attr(wire.IFA_BROADCAST, address.network.broadcast_address.packed)
        else:
            attrs += wire.u32(wire.IFA_FLAGS, wire.IFA_F_NODAD | wire.IFA_F_PERMANENT)
        scope = 253 if address.ip.is_link_local else 0
        prefix = address.network.prefixlen
        body = (
            wire.IFADDR.pack(wire.family_of(address), prefix, wire.IFA_F_PERMANENT, scope, index)
            + attrs
        )
        self._request(kind, flags, body, f"{verb} address {address}")

    # -- routes and neighbours --------------------------------------------------------------

    def routes(self) -> list[Route]:
        """All unicast routes of all tables and both families."""
        found: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = wire.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for data in self._dump(wire.RTM_GETROUTE, body, "list routes"):
                route = wire.route_of(data)
                if route is not None:
                    found.append(route)
        return found

    def add_route(
        self,
        destination: Network,
        index: int,
        *,
        gateway: IPAddress | None = None,
        table: int = wire.RT_TABLE_MAIN,
        protocol: int = wire.RTPROT_BOOT,
    ) -> None:
        """Add or replace a route through an interface."""
        self._route(
            wire.RTM_NEWROUTE,
            wire.NLM_F_CREATE | wire.NLM_F_REPLACE,
            destination,
            index,
            gateway,
            table,
            protocol,
        )

    def delete_route(
        self, destination: Network, index: int, *, table: int = wire.RT_TABLE_MAIN
    ) -> None:
        """Remove a route.  ESRCH: there is none."""
        self._route(wire.RTM_DELROUTE, 0, destination, index, None, table, 0)

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
        if kind == wire.RTM_DELROUTE:
            scope = 255
        attrs = wire.u32(wire.RTA_OIF, index) + wire.u32(wire.RTA_TABLE, table)
        if destination.prefixlen:
            attrs += wire.attr(wire.RTA_DST, destination.network_address.packed)
        if gateway is not None:
            attrs += wire.attr(wire.RTA_GATEWAY, gateway.packed)
        # The field of the header holds eight bits; the attribute says the whole number.
        short = table if table < 256 else 0
        body = wire.RTMSG.pack(
            wire.family_of(destination), destination.prefixlen, 0, 0, short, protocol, scope, 1, 0
        )
        verb = "add" if kind == wire.RTM_NEWROUTE else "delete"
        self._request(kind, flags, body + attrs, f"{verb} route {destination}")

    def add_proxy_neighbour(self, address: IPAddress, index: int) -> None:
        """Have the host answer ARP or NDP for ``address`` on an interface; idempotent."""
        body = wire.NDMSG.pack(wire.family_of(address), index, 0, wire.NTF_PROXY, 0)
        self._request(
            wire.RTM_NEWNEIGH,
            wire.NLM_F_CREATE | wire.NLM_F_REPLACE,
            body + wire.attr(wire.NDA_DST, address.packed),
            f"add neighbour proxy {address}",
        )

    def delete_proxy_neighbour(self, address: IPAddress, index: int) -> None:
        """Take a neighbour proxy away.  ENOENT: there is none."""
        body = wire.NDMSG.pack(wire.family_of(address), index, 0, wire.NTF_PROXY, 0)
        self._request(
            wire.RTM_DELNEIGH,
            0,
            body + wire.attr(wire.NDA_DST, address.packed),
            f"delete neighbour proxy {address}",
        )
