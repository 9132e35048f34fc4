# SPDX-License-Identifier: Apache-2.0
"""nic, nictype macvlan: an interface with its own MAC address on top of one of the host's."""

from __future__ import annotations

from contextlib import ExitStack

from nova_lxd.lxd.devices.interface import Nic, RunConfig, Volatile
from nova_lxd.lxd.devices.nic import key_table
from nova_lxd.lxd.devices.nic_vlan import VlanParentNic
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.network import links


class MacvlanNic(VlanParentNic):
    """LXD's nictype "macvlan"."""

    keys = key_table("parent", "vlan", "mode")
    required = frozenset(("parent",))

    def _name(self) -> str:
        return self.names()[1]

    def start(self) -> RunConfig:
        chosen = self.add()
        self.with_volatile(chosen)
        with ExitStack() as undo, Netlink() as nl:
            links.delete(self._name())
            parent = self.enter_parent(nl, undo)
            nl.create_macvlan(
                self._name(),
                parent.index,
                mode=self.get("mode") or "bridge",
                mtu=int(self.get("mtu")) if self.get("mtu") else None,
                address=self.hwaddr(),
            )
            undo.pop_all()
        nic = Nic(link=self._name(), name=self.inner_name(), hwaddr=self.hwaddr())
        volatile: Volatile = {**chosen, "host_name": self._name()}
        volatile["last_state.created"] = "true" if self.get("vlan") else "false"
        return RunConfig(nics=[nic], volatile=volatile)

    def stop(self) -> RunConfig:
        pid = self.instance.init_pid
        if pid is not None:
            links.take_back(pid, self.inner_name(), self._name())
        return RunConfig()

    def post_stop(self) -> Volatile:
        # liblxc puts the interface back on the host when the container ends.
        links.delete(self._name())
        self.leave_parent()
        return {"host_name": None, "last_state.created": None}
