# SPDX-License-Identifier: Apache-2.0
"""Interfaces of the host beyond what one rtnetlink call does: settings, rates, moves, states."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

from nova_lxd.lxd.errors import NotFound
from nova_lxd.lxd.host.netlink import Link, Netlink
from nova_lxd.lxd.host.netstate import address_state
from nova_lxd.lxd.host.run import run
from nova_lxd.lxd.network.interface import BridgeState, NetworkState

_SYSCTL = Path("/proc/sys/net")


def set_sysctl(key: str, value: str) -> None:
    """Write a setting below net, such as ``ipv4/conf/NAME/forwarding``.

    A kernel without IPv6 has no settings of it: those are passed over.
    """
    try:
        (_SYSCTL / key).write_text(value)
    except FileNotFoundError:
        if not key.startswith("ipv6/") or (_SYSCTL / "ipv6").exists():
            raise


def get_sysctl(key: str) -> str | None:
    """A setting below net, None when the kernel does not have it."""
    try:
        return (_SYSCTL / key).read_text().strip()
    except FileNotFoundError:
        return None


def delete(name: str) -> None:
    """Remove an interface of this namespace; nothing happens when it is gone."""
    with Netlink() as nl:
        link = nl.find(name)
        if link is None:
            return
        with gone_is_fine():
            nl.delete_link(link.index)


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """A context in which "no such device" is no error: it went away by itself."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENODEV, errno.ENXIO):
            raise


def exists(name: str) -> bool:
    """Is there an interface of this name in this namespace?"""
    with Netlink() as nl:
        return nl.find(name) is not None


# -- rates ------------------------------------------------------------------------------------


def shape(name: str, bits_per_second: int) -> None:
    """Queue what leaves through an interface so that it keeps to a rate; 0 lifts the limit.

    On the host's end of a veth pair this is the traffic towards the guest.
    """
    if bits_per_second == 0:
        unshape(name)
        return
    # A queue that is there cannot be replaced by its like; its class can.
    lines = [] if _is_shaped(name) else [f"qdisc replace dev {name} root handle 1: htb default 10"]
    lines.append(f"class replace dev {name} parent 1: classid 1:10 htb rate {bits_per_second}bit")
    run(["tc", "-batch", "-"], input="".join(f"{line}\n" for line in lines).encode(), timeout=60)


def unshape(name: str) -> None:
    """Take a rate away; nothing happens where none was set."""
    if _is_shaped(name):
        run(["tc", "qdisc", "del", "dev", name, "root"], timeout=60)


def _is_shaped(name: str) -> bool:
    listed = run(["tc", "qdisc", "show", "dev", name, "root"], timeout=60).text
    return listed.startswith("qdisc htb 1:")


# -- moves ------------------------------------------------------------------------------------


def move_in(name: str, pid: int, new_name: str) -> None:
    """Hand an interface of the host to the network namespace of a process, there ``new_name``.

    It arrives down.  EEXIST: the namespace has an interface of that name.
    """
    with Netlink() as nl:
        link = nl.link(name)
        nl.set_link(link.index, up=False)
        nl.set_link(link.index, netns_pid=pid, name=new_name)


def take_back(pid: int, name: str, new_name: str) -> bool:
    """Fetch an interface out of a process's namespace; False when it is not there any more."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Netlink.of_process(pid) as inner:
            link = inner.find(name)
            if link is None:
                return False
            inner.set_link(link.index, up=False)
            inner.set_link(link.index, netns=home, name=new_name)
            return True
    except (FileNotFoundError, ProcessLookupError):
        return False  # The process has ended, and its namespace with it.
    finally:
        os.close(home)


# -- states -----------------------------------------------------------------------------------


def state(name: str) -> NetworkState:
    """What the kernel says of an interface of the host.  NotFound: there is none."""
    with Netlink() as nl:
        link = nl.find(name)
        if link is None:
            raise NotFound(f"Network interface {name!r} not found")
        addresses = [address_state(item) for item in nl.addresses(link.index)]
        bridge = _bridge_state(nl, link) if link.kind == "bridge" else None
    return NetworkState(
        addresses=addresses,
        counters=link.counters,
        hwaddr=link.hwaddr,
        mtu=link.mtu,
        state="up" if link.up else "down",
        kind=link.hardware,
        bridge=bridge,
    )


def _bridge_state(nl: Netlink, link: Link) -> BridgeState:
    settings = nl.bridge_settings(link.index)
    return BridgeState(
        id=settings.id,
        stp=settings.stp,
        forward_delay=settings.forward_delay,
        vlan_default=settings.vlan_default,
        vlan_filtering=settings.vlan_filtering,
        upper_devices=sorted(other.name for other in nl.links() if other.master == link.index),
    )


def used_subnets(nl: Netlink) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Every subnet that an address or a route of this host is in, default routes left out."""
    found = {item.interface.network for item in nl.addresses()}
    found |= {route.destination for route in nl.routes() if route.destination.prefixlen}
    return sorted(found, key=lambda net: (net.version, int(net.network_address), net.prefixlen))
