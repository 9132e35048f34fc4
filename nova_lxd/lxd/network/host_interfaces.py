# SPDX-License-Identifier: Apache-2.0
"""The host's network interfaces, managed or not, as ``/1.0/networks`` lists them."""

from __future__ import annotations

from dataclasses import dataclass

from nova_lxd.lxd.host.netlink import Link, Netlink
from nova_lxd.lxd.network import links
from nova_lxd.lxd.network.interface import NetworkState


@dataclass(frozen=True)
class HostInterface:
    """One interface; ``kind`` is LXD's word: bridge, vlan, bond, physical, loopback, unknown."""

    name: str
    kind: str


def _kind(link: Link) -> str:
    if link.kind in ("bridge", "vlan", "bond"):
        return link.kind
    if link.hardware == "loopback":
        return "loopback"
    return "unknown" if link.kind else "physical"


def interfaces() -> list[HostInterface]:
    """The interfaces of this network namespace but those of instances (``veth…``), as in LXD."""
    with Netlink() as netlink:
        found = netlink.links()
    shown = (link for link in found if not link.name.startswith("veth"))
    return [HostInterface(link.name, _kind(link)) for link in shown]


def state(name: str) -> NetworkState:
    """:raises NotFound: there is no such interface."""
    return links.state(name)
