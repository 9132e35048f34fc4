# SPDX-License-Identifier: Apache-2.0
"""Which class stands for which device: literal tables by ``type``, and by ``nictype``."""

from __future__ import annotations

from collections.abc import Mapping

from nova_lxd.lxd.devices.disk import Disk
from nova_lxd.lxd.devices.gpu import Gpu
from nova_lxd.lxd.devices.interface import Device, Host, InstanceView, RefusedDevice
from nova_lxd.lxd.devices.nic_bridged import BridgedNic
from nova_lxd.lxd.devices.nic_macvlan import MacvlanNic
from nova_lxd.lxd.devices.nic_p2p import P2PNic
from nova_lxd.lxd.devices.nic_physical import PhysicalNic
from nova_lxd.lxd.devices.nic_routed import RoutedNic
from nova_lxd.lxd.devices.none import NoDevice
from nova_lxd.lxd.devices.proxy import Proxy
from nova_lxd.lxd.devices.unix import UnixBlock, UnixChar
from nova_lxd.lxd.errors import BadRequest, LXDError
from nova_lxd.lxd.network.values import quoted
from nova_lxd.lxd.schema.configkeys import KeyTable


class _Infiniband(RefusedDevice):
    keys = KeyTable("infiniband device", [])
    what = "infiniband"


class _Usb(RefusedDevice):
    keys = KeyTable("usb device", [])
    what = "usb"


class _Tpm(RefusedDevice):
    keys = KeyTable("tpm device", [])
    what = "tpm"


class _Pci(RefusedDevice):
    keys = KeyTable("pci device", [])
    what = "pci"


class _UnixHotplug(RefusedDevice):
    keys = KeyTable("unix-hotplug device", [])
    what = "unix-hotplug"


NICS: dict[str, type[Device]] = {
    "bridged": BridgedNic,
    "macvlan": MacvlanNic,
    "p2p": P2PNic,
    "physical": PhysicalNic,
    "routed": RoutedNic,
}

DEVICES: dict[str, type[Device]] = {
    "disk": Disk,
    "gpu": Gpu,
    "infiniband": _Infiniband,
    "none": NoDevice,
    "pci": _Pci,
    "proxy": Proxy,
    "tpm": _Tpm,
    "unix-block": UnixBlock,
    "unix-char": UnixChar,
    "unix-hotplug": _UnixHotplug,
    "usb": _Usb,
}

# Managed networks that a nic with "network" can be on, and the kind of nic that is then.
_BY_NETWORK = {"bridge": BridgedNic}


def load(name: str, config: Mapping[str, str], instance: InstanceView, host: Host) -> Device:
    """The device of a configuration.

    :raises BadRequest: its type is missing or unknown.
    """
    if not name or len(name) > 64 or "/" in name or name in (".", "..") or "\0" in name:
        raise BadRequest(f"Invalid device name {quoted(name[:80])}")
    kind = config.get("type", "")
    if kind == "nic":
        return _nic_class(config, instance, host)(name, config, instance, host)
    found = DEVICES.get(kind)
    if found is None:
        raise BadRequest(
            f"Unsupported device type {quoted(kind)}" if kind else "Missing device type"
        )
    return found(name, config, instance, host)


def _nic_class(config: Mapping[str, str], instance: InstanceView, host: Host) -> type[Device]:
    network, nictype = config.get("network", ""), config.get("nictype", "")
    if network:
        managed = host.networks.find(instance.project, network)
        if managed is None:
            # The class says what is wrong when it validates.
            return BridgedNic
        return _BY_NETWORK.get(managed.kind, BridgedNic)
    if nictype in NICS:
        return NICS[nictype]
    if nictype:
        raise BadRequest(f"Unsupported nic type {quoted(nictype)}")
    raise BadRequest('Invalid value for device option "nictype": Required value')


def validate_all(
    devices: Mapping[str, Mapping[str, str]], instance: InstanceView, host: Host
) -> None:
    """Check every device of an instance or profile.

    :raises BadRequest: with the name of the first device that is wrong.
    """
    taken: set[str] = set()
    for name, config in devices.items():
        try:
            load(name, config, instance, host).validate()
            if config.get("type") == "nic":
                _claim_nic_name(config, taken)
        except LXDError as exc:
            raise BadRequest(
                f"Invalid devices: Device validation failed for {quoted(name)}: {exc.message}"
            ) from exc


def _claim_nic_name(config: Mapping[str, str], taken: set[str]) -> None:
    inner = config.get("name", "")
    if inner in taken:
        raise BadRequest(
            f'Invalid value for device option "name": Duplicate NIC name detected {quoted(inner)}'
        )
    if inner:
        taken.add(inner)


def start_order(devices: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Names in the order in which devices start; they stop in the reverse one.

    As in LXD, nics come first and the root disk before disks at paths inside it, shorter paths
    before longer ones.
    """

    def rank(name: str) -> tuple[int, str, str]:
        config = devices[name]
        if config.get("type") == "nic":
            return 0, "", name
        if config.get("type") == "disk":
            return (1 if config.get("path") == "/" else 2), config.get("path", ""), name
        return 3, "", name

    return sorted(devices, key=rank)
