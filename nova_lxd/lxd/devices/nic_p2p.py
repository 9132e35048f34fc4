# SPDX-License-Identifier: Apache-2.0
"""nic, nictype p2p: a veth pair whose host end belongs to the host's administrator."""

from __future__ import annotations

from contextlib import ExitStack

from nova_lxd.lxd.devices.interface import RunConfig
from nova_lxd.lxd.devices.nic import LIMITS, ROUTES, VethNic, key_table, subnet
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.network import values


class P2PNic(VethNic):
    """LXD's nictype "p2p"."""

    keys = key_table("host_name", *LIMITS, *ROUTES)

    def start(self) -> RunConfig:
        chosen = self.add()
        self.with_volatile(chosen)
        with ExitStack() as undo, Netlink() as nl:
            mtu = int(self.get("mtu")) if self.get("mtu") else None
            link = self.start_pair(nl, undo, mtu=mtu)
            nl.set_link(link.index, up=True)
            for family in ("ipv4", "ipv6"):
                for text in values.split_list(self.get(f"{family}.routes")):
                    nl.add_route(subnet(text), link.index)
            self.apply_filter(undo)
            undo.pop_all()
        run = self.run_config()
        run.volatile.update(chosen)
        return run
