# SPDX-License-Identifier: Apache-2.0
"""What the firmware says of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nova_lxd.lxd.host.resources import sysfs

# SMBIOS 3.6, table 17: chassis types.
_CHASSIS = (
    "Other",
    "Unknown",
    "Desktop",
    "Low Profile Desktop",
    "Pizza Box",
    "Mini Tower",
    "Tower",
    "Portable",
    "Laptop",
    "Notebook",
    "Hand Held",
    "Docking Station",
    "All in One",
    "Sub Notebook",
    "Space-saving",
    "Lunch Box",
    "Main Server Chassis",
    "Expansion Chassis",
    "SubChassis",
    "Bus Expansion Chassis",
    "Peripheral Chassis",
    "RAID Chassis",
    "Rack Mount Chassis",
    "Sealed-case PC",
    "Multi-system chassis",
    "Compact PCI",
    "Advanced TCA",
    "Blade",
    "Blade Enclosure",
    "Tablet",
    "Convertible",
    "Detachable",
    "IoT Gateway",
    "Embedded PC",
    "Mini PC",
    "Stick PC",
)
_WHOLE_MAP = "0 0 4294967295"


def collect(root: Path) -> dict[str, Any]:
    """LXD's ``ResourcesSystem``; parts are null where there is no DMI."""
    dmi = root / "sys/class/dmi/id"
    return {
        "uuid": sysfs.text(dmi / "product_uuid"),
        "vendor": sysfs.text(dmi / "sys_vendor"),
        "product": sysfs.text(dmi / "product_name"),
        "family": sysfs.text(dmi / "product_family"),
        "version": sysfs.text(dmi / "product_version"),
        "sku": sysfs.text(dmi / "product_sku"),
        "serial": sysfs.text(dmi / "product_serial"),
        "type": _type(root),
        "firmware": _part(dmi, "bios", vendor="vendor", date="date", version="version"),
        "chassis": _chassis(dmi),
        "motherboard": _part(
            dmi, "board", vendor="vendor", product="name", serial="serial", version="version"
        ),
    }


def _part(dmi: Path, prefix: str, **fields: str) -> dict[str, str] | None:
    if not dmi.is_dir():
        return None
    return {key: sysfs.text(dmi / f"{prefix}_{name}") for key, name in fields.items()}


def _chassis(dmi: Path) -> dict[str, str] | None:
    part = _part(dmi, "chassis", vendor="vendor", serial="serial", version="version")
    if part is None:
        return None
    kind = sysfs.number(dmi / "chassis_type")
    return {**part, "type": _CHASSIS[kind - 1] if 0 < kind <= len(_CHASSIS) else "Unknown"}


def _type(root: Path) -> str:
    """``container`` in a user namespace or as systemd was told, else what the CPU says."""
    mapped = " ".join(sysfs.text(root / "proc/self/uid_map").split())
    if mapped not in ("", _WHOLE_MAP) or (root / "run/systemd/container").exists():
        return "container"
    for line in sysfs.text(root / "proc/cpuinfo").splitlines():
        if line.startswith("flags") and "hypervisor" in line.split():
            return "virtual-machine"
    return "physical"
