# SPDX-License-Identifier: Apache-2.0
"""Neutron ports as container nics.

The driver makes a veth pair per port. The outer end carries the name Neutron and os-vif expect
(tap...) and stays on the host; the inner end (tin...) is given to LXD as a ``physical`` nic and
becomes the guest's device. The port is plugged before the container starts, so that Nova can
wait for network-vif-plugged.

A pair that was deleted and made anew under a port that stayed in the OVS database is silently
dead on the userspace datapath: every start therefore unplugs first, deleting port and pair.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
from collections.abc import Iterable
from typing import Any

import nova.conf
import os_vif
from nova import exception
from nova.network import model, os_vif_util
from os_vif import exception as osv_exception
from oslo_log import log as logging

from nova_lxd.virt import privsep, shaping

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

NAME_LEN = model.NIC_NAME_LEN
DEVICE_PREFIX = "vif-"
# Ports that need nothing but the pair: an agent of the network back end picks up the outer end.
PAIR_ONLY = (model.VIF_TYPE_TAP,)
OS_VIF = (model.VIF_TYPE_OVS, model.VIF_TYPE_BRIDGE)

# Interface index of each outer end that this process plugged.
_plugged: dict[str, int] = {}


def outer_name(vif: dict[str, Any]) -> str:
    """Return the name of the host's end."""
    return (vif.get("devname") or "tap" + vif["id"])[:NAME_LEN]


def inner_name(vif: dict[str, Any]) -> str:
    """Return the name of the container's end while it is on the host."""
    return ("tin" + vif["id"])[:NAME_LEN]


def guest_end(vif: dict[str, Any]) -> str:
    """Return the name of the host's end next to the guest, where rates need a second pair."""
    return ("tgu" + vif["id"])[:NAME_LEN]


def device_name(vif: dict[str, Any]) -> str:
    """Return the key of the port in the LXD instance's devices."""
    return DEVICE_PREFIX + vif["id"][:11]


def mtu(vif: dict[str, Any]) -> int | None:
    """Return the MTU of the port's network, in bytes, when Neutron gave one."""
    return vif["network"].get_meta("mtu")


def nic(vif: dict[str, Any], guest_name: str) -> dict[str, str]:
    """Return the LXD device of a port."""
    device = {
        "type": "nic",
        "nictype": "physical",
        "parent": inner_name(vif),
        "hwaddr": vif["address"],
        "name": guest_name,
    }
    if mtu(vif):
        device["mtu"] = str(mtu(vif))
    return device


def nics(network_info: Iterable[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the LXD devices of all ports; the guest sees eth0, eth1, ... in their order."""
    return {device_name(vif): nic(vif, f"eth{i}") for i, vif in enumerate(network_info)}


def free_guest_name(devices: dict[str, dict[str, str]]) -> str:
    """Return the first ethN that no device of an instance uses."""
    used = {device.get("name") for device in devices.values() if device["type"] == "nic"}
    return next(name for i in range(len(used) + 1) if (name := f"eth{i}") not in used)


def plug(instance: Any, vif: dict[str, Any]) -> None:
    """Make the port's pair and plug it; what was left of an earlier pair goes first.

    :raises nova.exception.VirtualInterfacePlugException: nothing is left behind then
    """
    kind = vif["type"]
    if kind not in PAIR_ONLY + OS_VIF:
        raise exception.VirtualInterfacePlugException(
            f"port {vif['id']} is bound as '{kind}', which a container cannot use: bind it as"
            " one of " + ", ".join(PAIR_ONLY + OS_VIF)
        )
    unplug(instance, vif)
    with contextlib.ExitStack() as undo:
        undo.callback(_delete_links, vif)
        _make_links(instance, vif)
        if kind in OS_VIF:
            privsep.silence_link(outer_name(vif))
            _plug_in_switch(instance, vif)
        undo.pop_all()
    _plugged[outer_name(vif)] = socket.if_nametoindex(outer_name(vif))
    LOG.debug("Plugged port %s as %s", vif["id"], outer_name(vif), instance=instance)


def unplug(instance: Any, vif: dict[str, Any]) -> None:
    """Unplug the port and delete its pair; an absent one is unplugged already."""
    if vif["type"] in OS_VIF:
        try:
            _os_vif(os_vif.unplug, instance, vif)
        except osv_exception.ExceptionBase as e:
            raise exception.NovaException(f"port {vif['id']} cannot be unplugged: {e}")
    _delete_links(vif)
    _plugged.pop(outer_name(vif), None)


def is_new(vif: dict[str, Any]) -> bool:
    """Tell whether the pair is another one than this process plugged."""
    return _plugged.get(outer_name(vif)) != socket.if_nametoindex(outer_name(vif))


def replug(instance: Any, vif: dict[str, Any]) -> None:
    """Delete and add the switch's port while the pair stays, for a guest that runs."""
    if vif["type"] in OS_VIF:
        _os_vif(os_vif.unplug, instance, vif)
        _os_vif(os_vif.plug, instance, vif)
    _plugged[outer_name(vif)] = socket.if_nametoindex(outer_name(vif))


def outer_exists(vif: dict[str, Any]) -> bool:
    """Tell whether the host's end of the port is there."""
    return _exists(outer_name(vif))


def is_whole(instance: Any, vif: dict[str, Any]) -> bool:
    """Tell whether the host has every link of the port, up to the guest's."""
    shaped = shaping.rates(instance.flavor.extra_specs) is not None
    return outer_exists(vif) and (not shaped or _exists(guest_end(vif)))


def _exists(name: str) -> bool:
    return pathlib.Path("/sys/class/net", name).exists()


def _make_links(instance: Any, vif: dict[str, Any]) -> None:
    found = shaping.rates(instance.flavor.extra_specs)
    outer, inner = outer_name(vif), inner_name(vif)
    if found is None:
        privsep.create_veth(outer, inner, vif["address"], mtu(vif))
        return
    links = shaping.Links(outer, ("tsw" + vif["id"])[:NAME_LEN], guest_end(vif), inner)
    shaping.make(found, links, vif["address"], mtu(vif))


def _delete_links(vif: dict[str, Any]) -> None:
    """Delete the pairs; each takes its other end along, wherever that is."""
    for name in (outer_name(vif), guest_end(vif)):
        privsep.delete_link(name)


def _plug_in_switch(instance: Any, vif: dict[str, Any]) -> None:
    try:
        _os_vif(os_vif.plug, instance, vif)
    except osv_exception.ExceptionBase as e:
        raise exception.VirtualInterfacePlugException(f"port {vif['id']}: {e}")


def _os_vif(verb: Any, instance: Any, vif: dict[str, Any]) -> None:
    described = os_vif_util.nova_to_osvif_vif(vif)
    profile = described.port_profile if described.obj_attr_is_set("port_profile") else None
    if profile is not None and "create_port" in profile.fields:
        # without this plug() does nothing; info caches of old instances lack delegate_create
        profile.create_port = True
    if profile is not None and "create_tap" in profile.fields:
        profile.create_tap = False  # the pair is the device; a tap is of no use to a container
    verb(described, os_vif_util.nova_to_osvif_instance(instance))
