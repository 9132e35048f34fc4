# SPDX-License-Identifier: Apache-2.0
"""The VLAN of a nic's parent: an interface ``PARENT.VLAN`` that several nics may share."""

from __future__ import annotations

import errno
from contextlib import ExitStack

from nova_lxd.lxd.devices.nic import NicDevice
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.netlink import Link, Netlink
from nova_lxd.lxd.network import links

_ALIAS = "nova-lxd vlan "


class VlanParentNic(NicDevice):
    """A nic with the keys ``parent`` and ``vlan``."""

    def parent_name(self) -> str:
        """The interface that the nic is on: the parent, or its VLAN."""
        vlan = self.get("vlan")
        return f"{self.get('parent')}.{vlan}" if vlan else self.get("parent")

    def enter_parent(self, nl: Netlink, undo: ExitStack) -> Link:
        """The parent, with its VLAN interface made when it is missing."""
        if not self.get("vlan"):
            return self.parent_link(nl, self.get("parent"))
        name = self.parent_name()
        present = nl.find(name)
        if present is not None:
            return present
        parent = self.parent_link(nl, self.get("parent"))
        try:
            nl.create_vlan(name, parent.index, int(self.get("vlan")))
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            raise BadRequest(
                f"Making VLAN interface {name} failed: this host's kernel has no 802.1Q support;"
                " load the module 8021q or leave vlan out"
            ) from exc
        undo.callback(links.delete, name)
        link = nl.link(name)
        nl.set_link(link.index, up=True, alias=_ALIAS + self.host.paths.tag)
        return link

    def leave_parent(self) -> None:
        """Remove a VLAN interface that we made when nothing else is on it any more."""
        if not self.get("vlan"):
            return
        with Netlink() as nl:
            link = nl.find(self.parent_name())
            if link is None or link.alias != _ALIAS + self.host.paths.tag:
                return
            if any(other.link == link.index for other in nl.links()):
                return
            with links.gone_is_fine():
                nl.delete_link(link.index)
