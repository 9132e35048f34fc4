# SPDX-License-Identifier: Apache-2.0
"""nic, nictype physical: an interface of the host is lent to the instance.

What it was like on the host is written into the interface's alias before it leaves.  The alias
travels with it, so it is known again and restored even when the daemon died in between, and even
when the kernel gave it another name on its way back out of a namespace that ended.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass

from nova_lxd.lxd.devices.interface import Nic, RunConfig, Volatile
from nova_lxd.lxd.devices.nic import key_table
from nova_lxd.lxd.devices.nic_vlan import VlanParentNic
from nova_lxd.lxd.host.netlink import Link, Netlink
from nova_lxd.lxd.network import links

LOG = logging.getLogger(__name__)

_RETURN_TIMEOUT = 5.0


@dataclass(frozen=True)
class Loan:
    """What an interface was like before it was lent."""

    tag: str
    name: str
    hwaddr: str
    mtu: int

    def alias(self) -> str:
        return f"nova-lxd-loan {self.tag} {self.name} {self.hwaddr} {self.mtu}"

    @classmethod
    def parse(cls, alias: str) -> Loan | None:
        fields = alias.split(" ")
        if len(fields) != 5 or fields[0] != "nova-lxd-loan":
            return None
        return cls(fields[1], fields[2], fields[3], int(fields[4]))


class PhysicalNic(VlanParentNic):
    """LXD's nictype "physical"."""

    keys = key_table("parent", "vlan")
    required = frozenset(("parent",))

    def hwaddr(self) -> str:
        # It keeps its own MAC address unless another one is asked for.
        return self.get("hwaddr").lower()

    def add(self) -> Volatile:
        changes = super().add()
        changes.pop("hwaddr", None)
        return changes

    def start(self) -> RunConfig:
        chosen = self.add()
        self.with_volatile(chosen)
        self._bring_home(wait=False)
        with ExitStack() as undo, Netlink() as nl:
            had_vlan = bool(self.get("vlan")) and nl.find(self.parent_name()) is None
            link = self.enter_parent(nl, undo)
            loan = Loan(self.host.paths.tag, link.name, link.address, link.mtu)
            undo.callback(self._bring_home, wait=False)
            nl.set_link(
                link.index,
                up=False,
                alias=loan.alias(),
                address=self.hwaddr(),
                mtu=int(self.get("mtu")) if self.get("mtu") else None,
            )
            undo.pop_all()
        volatile: Volatile = {
            **chosen,
            "host_name": link.name,
            "last_state.created": "true" if had_vlan else "false",
            "last_state.hwaddr": loan.hwaddr,
            "last_state.mtu": str(loan.mtu),
        }
        nic = Nic(link=link.name, name=self.inner_name(), hwaddr=self.hwaddr())
        return RunConfig(nics=[nic], volatile=volatile)

    def stop(self) -> RunConfig:
        pid = self.instance.init_pid
        if pid is not None:
            links.take_back(pid, self.inner_name(), self.parent_name())
        return RunConfig()

    def post_stop(self) -> Volatile:
        if self.volatile("host_name") and not self._bring_home(wait=True):
            LOG.warning(
                "Nic %s: interface %s has not come back to the host", self.name, self.parent_name()
            )
        if self.volatile("last_state.created") == "true":
            links.delete(self.parent_name())
        keys = ("host_name", "last_state.created", "last_state.hwaddr", "last_state.mtu")
        return dict.fromkeys(keys)

    def _bring_home(self, *, wait: bool) -> bool:
        """Give the interface its name, MAC address and MTU back; False when it is not there.

        After the end of a container whose monitor was killed, the kernel takes a moment to put
        the interfaces of the namespace back.
        """
        end = time.monotonic() + (_RETURN_TIMEOUT if wait else 0.0)
        while True:
            with Netlink() as nl:
                for link in nl.links():
                    loan = Loan.parse(link.alias)
                    if loan and (loan.tag, loan.name) == (
                        self.host.paths.tag,
                        self.parent_name(),
                    ):
                        _restore(nl, link, loan)
                        return True
                if nl.find(self.parent_name()) is not None:
                    return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)


def _restore(nl: Netlink, link: Link, loan: Loan) -> None:
    nl.set_link(link.index, up=False)
    nl.set_link(
        link.index,
        name=loan.name if link.name != loan.name else "",
        address=loan.hwaddr,
        mtu=loan.mtu,
        alias="",
    )
