# SPDX-License-Identifier: Apache-2.0
"""PCI and USB devices, graphics and network cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nova_lxd.lxd.host.resources import sysfs

_CLASS_DISPLAY = 0x03
_CLASS_NETWORK = 0x02
_USB_HUB = 0x09
_ARPHRD_ETHERNET, _ARPHRD_INFINIBAND = 1, 32


def _pci_names(root: Path, device: Path) -> dict[str, Any]:
    vendor = sysfs.text(device / "vendor").removeprefix("0x")
    product = sysfs.text(device / "device").removeprefix("0x")
    names = sysfs.id_names(root, sysfs.PCI_IDS)
    return {
        "vendor": names.get(vendor, ""),
        "vendor_id": vendor,
        "product": names.get(f"{vendor}:{product}", ""),
        "product_id": product,
    }


def _pci_devices(root: Path) -> list[Path]:
    return sysfs.children(root / "sys/bus/pci/devices")


def pci(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesPCI``."""
    devices = [
        {
            **sysfs.driver(root, path),
            "numa_node": sysfs.numa_node(path),
            "pci_address": path.name,
            **_pci_names(root, path),
            "iommu_group": int(sysfs.link_name(path / "iommu_group") or 0),
            "vpd": {},
        }
        for path in _pci_devices(root)
    ]
    return {"devices": devices, "total": len(devices)}


def _sriov(root: Path, device: Path, card: Any) -> dict[str, Any]:
    """The ``sriov`` part of a card that has virtual functions; ``card`` describes one of them."""
    maximum = sysfs.number(device / "sriov_totalvfs")
    if not maximum:
        return {}
    functions = [p for p in sysfs.children(device) if p.name.startswith("virtfn")]
    functions.sort(key=lambda path: int(path.name[6:]))
    return {
        "sriov": {
            "current_vfs": sysfs.number(device / "sriov_numvfs"),
            "maximum_vfs": maximum,
            "vfs": [card(root, path.resolve()) for path in functions],
        }
    }


def _is_function(device: Path) -> bool:
    """Is it a virtual function?  Those are listed with the card they belong to."""
    return (device / "physfn").is_symlink()


def _class(device: Path) -> int:
    return sysfs.number(device / "class", base=16) >> 16


def gpus(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesGPU``."""
    cards = [
        _gpu(root, path)
        for path in _pci_devices(root)
        if not _is_function(path) and _class(path) == _CLASS_DISPLAY
    ]
    return {"cards": cards, "total": len(cards)}


def _gpu(root: Path, device: Path) -> dict[str, Any]:
    card = {
        **sysfs.driver(root, device),
        **_drm(device),
        "numa_node": sysfs.numa_node(device),
        "pci_address": device.name,
        **_pci_names(root, device),
        **_sriov(root, device, _gpu),
    }
    return sysfs.without_empty(
        card, "driver", "driver_version", "vendor", "vendor_id", "product", "product_id"
    )


def _drm(device: Path) -> dict[str, Any]:
    entries = [p for p in sysfs.children(device / "drm") if p.is_dir()]
    drm: dict[str, Any] = {}
    for path in entries:
        for prefix, kind in (("card", "card"), ("controlD", "control"), ("renderD", "render")):
            if path.name.removeprefix(prefix).isdigit():
                drm[f"{kind}_name"] = path.name
                drm[f"{kind}_device"] = sysfs.text(path / "dev")
                if kind == "card":
                    drm["id"] = int(path.name[4:])
    return {"drm": {"id": 0, **drm}} if drm else {}


def network_cards(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesNetwork``: cards with those of their ports that are in our namespace."""
    cards = [
        _network_card(root, path)
        for path in _pci_devices(root)
        if not _is_function(path) and _class(path) == _CLASS_NETWORK
    ]
    return {"cards": cards, "total": len(cards)}


def _network_card(root: Path, device: Path) -> dict[str, Any]:
    # Of a virtio card, interfaces and what LXD takes for driver and ids are one level below.
    below = next((p for p in sysfs.children(device) if p.name.startswith("virtio")), device)
    ports = [_port(path) for path in sysfs.children(below / "net")]
    card = {
        **sysfs.driver(root, below),
        "ports": [port for port in ports if port],
        "numa_node": sysfs.numa_node(device),
        "pci_address": device.name,
        **_pci_names(root, below),
        **_sriov(root, device, _network_card),
        "firmware_version": "",
    }
    return sysfs.without_empty(card, *(key for key in card if key != "numa_node"))


def _port(path: Path) -> dict[str, Any]:
    kind = sysfs.number(path / "type")
    protocol = {_ARPHRD_ETHERNET: "ethernet", _ARPHRD_INFINIBAND: "infiniband"}.get(kind)
    if protocol is None:
        return {}
    speed = sysfs.number(path / "speed")
    duplex = sysfs.text(path / "duplex")
    port = {
        "id": path.name,
        "address": sysfs.text(path / "address"),
        "port": sysfs.number(path / "dev_port"),
        "protocol": protocol,
        "auto_negotiation": False,
        "link_detected": sysfs.number(path / "carrier") == 1,
        "link_speed": max(0, speed),
        "link_duplex": duplex if duplex in ("full", "half") else "",
    }
    return sysfs.without_empty(port, "address", "link_speed", "link_duplex")


def usb(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesUSB``; hubs are left out."""
    devices = []
    for path in sysfs.children(root / "sys/bus/usb/devices"):
        if not (path / "busnum").exists():
            continue  # an interface
        if sysfs.number(path / "bDeviceClass", base=16) == _USB_HUB:
            continue
        devices.append(_usb_device(root, path))
    return {"devices": devices, "total": len(devices)}


def _usb_device(root: Path, path: Path) -> dict[str, Any]:
    vendor, product = sysfs.text(path / "idVendor"), sysfs.text(path / "idProduct")
    names = sysfs.id_names(root, sysfs.USB_IDS)
    speed = sysfs.text(path / "speed", "0")
    interfaces = [
        {
            "class": "",
            "class_id": sysfs.number(entry / "bInterfaceClass", base=16),
            **sysfs.driver(root, entry),
            "number": sysfs.number(entry / "bInterfaceNumber", base=16),
            "subclass": "",
            "subclass_id": sysfs.number(entry / "bInterfaceSubClass", base=16),
        }
        for entry in sysfs.children(path)
        if (entry / "bInterfaceNumber").exists()
    ]
    return {
        "bus_address": sysfs.number(path / "busnum"),
        "device_address": sysfs.number(path / "devnum"),
        "interfaces": interfaces,
        "vendor": sysfs.text(path / "manufacturer") or names.get(vendor, ""),
        "vendor_id": vendor,
        "product": sysfs.text(path / "product") or names.get(f"{vendor}:{product}", ""),
        "product_id": product,
        "speed": float(speed),
    }
