# SPDX-License-Identifier: Apache-2.0
"""Reading small files of /sys and /proc, any of which a kernel may lack."""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

# What the kernel says for an attribute that the hardware or driver does not have.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ENODEV, errno.EIO, errno.EOPNOTSUPP)

PCI_IDS = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")
USB_IDS = ("usr/share/misc/usb.ids", "usr/share/hwdata/usb.ids", "var/lib/usbutils/usb.ids")


def text(path: Path, default: str = "") -> str:
    """The stripped content of a file, ``default`` when the kernel has none."""
    try:
        return path.read_text(errors="replace").strip()
    except PermissionError:
        return default
    except OSError as exc:
        if exc.errno in _ABSENT:
            return default
        raise


def number(path: Path, default: int = 0, base: int = 10) -> int:
    """The number in a file, ``default`` when there is none."""
    try:
        return int(text(path), base)
    except ValueError:
        return default


def link_name(path: Path) -> str:
    """The last name of where a link points to, "" when there is none."""
    return os.path.basename(path.readlink()) if path.is_symlink() else ""


def children(path: Path) -> list[Path]:
    """The entries of a directory, sorted by name; none when it is missing."""
    return sorted(path.iterdir()) if path.is_dir() else []


def ranges(listing: str) -> set[int]:
    """The numbers in a list like ``0-3,7``."""
    found: set[int] = set()
    for part in filter(None, listing.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def without_empty(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The entry without those of ``keys`` that are empty: LXD leaves them out."""
    return {key: value for key, value in entry.items() if value or key not in keys}


def kernel_version(root: Path) -> str:
    """The running kernel's release, which LXD gives as the version of built-in drivers."""
    return text(root / "proc/sys/kernel/osrelease")


def driver(root: Path, device: Path) -> dict[str, str]:
    """``driver`` and ``driver_version`` of a device's directory."""
    name = link_name(device / "driver")
    version = text(root / "sys/module" / name / "version") if name else ""
    return {"driver": name, "driver_version": version or (kernel_version(root) if name else "")}


def pci_address(device: Path) -> str:
    """The address of the PCI device at or above a device's directory, "" when there is none."""
    path = device.resolve()
    while path.name:
        if link_name(path / "subsystem") == "pci":
            return path.name
        path = path.parent
    return ""


def numa_node(device: Path) -> int:
    """The NUMA node of a device; 0 when the hardware does not tell."""
    return max(0, number(device / "numa_node"))


@lru_cache(maxsize=4)
def id_names(root: Path, files: tuple[str, ...]) -> dict[str, str]:
    """Names from a pci.ids or usb.ids file: ``VENDOR`` and ``VENDOR:PRODUCT`` → name."""
    names: dict[str, str] = {}
    path = next((root / name for name in files if (root / name).exists()), None)
    if path is None:
        return names
    vendor = ""
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("C ") or line.startswith("AT "):
            break  # classes follow
        if not line or line.startswith(("#", "\t\t")):
            continue
        code, _, name = line.strip().partition("  ")
        if line.startswith("\t"):
            names[f"{vendor}:{code}"] = name
        else:
            vendor = code
            names[vendor] = name
    return names
