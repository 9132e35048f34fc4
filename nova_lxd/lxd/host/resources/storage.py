# SPDX-License-Identifier: Apache-2.0
"""Disks and partitions; sizes in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nova_lxd.lxd.host.resources import sysfs

_SECTOR = 512


def collect(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesStorage``: what is backed by hardware, no loop or mapped devices."""
    links = _links(root)
    disks = [
        _disk(root, path, links)
        for path in sysfs.children(root / "sys/class/block")
        if (path / "device").exists() and not (path / "partition").exists()
    ]
    return {"disks": disks, "total": len(disks)}


def _links(root: Path) -> dict[str, dict[str, str]]:
    """Names of disks in /dev/disk: kind (``by-id``, ``by-path``) → disk → link."""
    found: dict[str, dict[str, str]] = {}
    for kind in ("by-id", "by-path"):
        for link in sysfs.children(root / "dev/disk" / kind):
            found.setdefault(kind, {}).setdefault(sysfs.link_name(link), link.name)
    return found


def _disk(root: Path, path: Path, links: dict[str, dict[str, str]]) -> dict[str, Any]:
    device = path / "device"
    disk = {
        "id": path.name,
        "device": sysfs.text(path / "dev"),
        "model": sysfs.text(device / "model"),
        "type": _type(path),
        "read_only": sysfs.number(path / "ro") == 1,
        "size": sysfs.number(path / "size") * _SECTOR,
        "removable": sysfs.number(path / "removable") == 1,
        "wwn": sysfs.text(path / "wwid") or sysfs.text(device / "wwid"),
        "numa_node": sysfs.numa_node(device),
        "device_path": links.get("by-path", {}).get(path.name, ""),
        "block_size": sysfs.number(path / "queue/physical_block_size"),
        "firmware_version": sysfs.text(device / "firmware_rev") or sysfs.text(device / "rev"),
        "rpm": sysfs.number(path / "queue/rotational"),
        "serial": sysfs.text(path / "serial") or sysfs.text(device / "serial"),
        "device_id": links.get("by-id", {}).get(path.name, ""),
        "partitions": [_partition(p) for p in sysfs.children(path) if (p / "partition").exists()],
        "pci_address": sysfs.pci_address(device),
        "usb_address": _usb_address(device),
    }
    return sysfs.without_empty(
        disk,
        "model",
        "wwn",
        "device_path",
        "firmware_version",
        "serial",
        "pci_address",
        "usb_address",
    )


def _type(path: Path) -> str:
    """The bus: virtio, nvme, scsi, mmc, usb, sata (a SCSI disk behind libata)."""
    real = str((path / "device").resolve())
    if "/usb" in real:
        return "usb"
    if "/ata" in real:
        return "sata"
    return sysfs.link_name(path / "device/subsystem")


def _partition(path: Path) -> dict[str, Any]:
    return {
        "id": path.name,
        "device": sysfs.text(path / "dev"),
        "read_only": sysfs.number(path / "ro") == 1,
        "size": sysfs.number(path / "size") * _SECTOR,
        "partition": sysfs.number(path / "partition"),
    }


def _usb_address(device: Path) -> str:
    path = device.resolve()
    while path.name:
        if (path / "busnum").exists():
            return f"{sysfs.number(path / 'busnum')}:{sysfs.number(path / 'devnum')}"
        path = path.parent
    return ""
