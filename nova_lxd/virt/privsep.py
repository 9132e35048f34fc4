# SPDX-License-Identifier: Apache-2.0
"""The few things that need root on the host, run by Nova's own privileged daemon.

Nova's context accepts them because this package's name starts with ``nova``.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import pathlib
import socket
import struct

import nova.privsep
from oslo_concurrency import processutils

SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x00000017
IFNAMSIZ = 16


@nova.privsep.sys_admin_pctxt.entrypoint
def create_veth(outer: str, inner: str, mac: str | None, mtu: int | None) -> None:
    """Make a veth pair: ``outer`` up on the host, ``inner`` to be handed to a container.

    The inner end gets the port's MAC and sends with complete checksums: on OVS's userspace
    datapath a packet whose checksum was left to the hardware is dropped.
    """
    size = ["mtu", str(mtu)] if mtu else []
    address = ["address", mac] if mac else []
    processutils.execute(
        "ip",
        "link",
        "add",
        outer,
        *size,
        "type",
        "veth",
        "peer",
        "name",
        inner,
        *address,
        *size,
    )
    _set_tx_checksum(inner, False)
    processutils.execute("ip", "link", "set", outer, "up")


@nova.privsep.sys_admin_pctxt.entrypoint
def silence_link(name: str) -> None:
    """Let the host itself say nothing on a port: it belongs to a switch.

    A datapath in user space gets a copy of each packet only. Without this the host's own stack
    would answer a guest that asks for one of the host's addresses.
    """
    processutils.execute("ip", "link", "set", name, "arp", "off")
    no_ipv6 = pathlib.Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
    if no_ipv6.exists():  # not on a host without IPv6
        no_ipv6.write_text("1")


@nova.privsep.sys_admin_pctxt.entrypoint
def join_links(one: str, other: str) -> None:
    """Send on each of two links what arrives at the other; the host sees none of it."""
    for name, target in ((one, other), (other, one)):
        silence_link(name)
        processutils.execute("ip", "link", "set", name, "up")
        processutils.execute("tc", "qdisc", "add", "dev", name, "ingress")
        processutils.execute(
            "tc", "filter", "add", "dev", name, "parent", "ffff:", "protocol", "all",
            "u32", "match", "u32", "0", "0",
            "action", "mirred", "egress", "redirect", "dev", target,
        )  # fmt: skip


@nova.privsep.sys_admin_pctxt.entrypoint
def limit_rate(name: str, average: int, burst: int, peak: int | None, frame: int) -> None:
    """Let a link send ``average`` kilobytes per second; see :class:`shaping.Rate`.

    :param frame: bytes of the largest frame
    """
    fastest = ["peakrate", f"{peak}kbps", "mtu", str(frame)] if peak else []
    processutils.execute(
        "tc", "qdisc", "add", "dev", name, "root", "tbf",
        "rate", f"{average}kbps", "burst", f"{burst}kb", "latency", "50ms", *fastest,
    )  # fmt: skip


@nova.privsep.sys_admin_pctxt.entrypoint
def delete_link(name: str) -> None:
    """Delete a network device; an absent one is deleted already."""
    if _link_exists(name):
        processutils.execute("ip", "link", "delete", name)


@nova.privsep.sys_admin_pctxt.entrypoint
def give_tree(path: str, uid: int, gid: int) -> None:
    """Give a directory tree that the driver made to a user, following no link."""
    for directory, _, files in os.walk(path):
        os.chown(directory, uid, gid, follow_symlinks=False)
        for name in files:
            os.chown(pathlib.Path(directory, name), uid, gid, follow_symlinks=False)


@nova.privsep.sys_admin_pctxt.entrypoint
def delete_tree(path: str) -> None:
    """Delete a tree that was given to a container's root."""
    for directory, directories, files in os.walk(path, topdown=False):
        for name in files:
            pathlib.Path(directory, name).unlink()
        for name in directories:
            entry = pathlib.Path(directory, name)
            if entry.is_symlink():
                entry.unlink()
            else:
                entry.rmdir()
    if pathlib.Path(path).exists():
        pathlib.Path(path).rmdir()


def _link_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError as e:
        if e.errno in (errno.ENODEV, None):  # if_nametoindex sets no errno for "no such device"
            return False
        raise
    return True


def _set_tx_checksum(name: str, on: bool) -> None:
    value = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, int(on)))
    address, _ = value.buffer_info()
    request = struct.pack(f"{IFNAMSIZ}sP", name.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
