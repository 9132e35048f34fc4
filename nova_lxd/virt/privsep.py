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
def create_veth(outer: str, inner: str, mac: str, mtu: int | None) -> None:
    """Make a veth pair: ``outer`` up on the host, ``inner`` to be handed to a container.

    The inner end gets the port's MAC and sends with complete checksums: on OVS's userspace
    datapath a packet whose checksum was left to the hardware is dropped.
    """
    size = ["mtu", str(mtu)] if mtu else []
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
        "address",
        mac,
        *size,
    )
    _set_tx_checksum(inner, False)
    processutils.execute("ip", "link", "set", outer, "up")


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
