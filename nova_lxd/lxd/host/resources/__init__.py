# SPDX-License-Identifier: Apache-2.0
"""What the host is made of, in the form of LXD's ``GET /1.0/resources``.

Everything is read from /sys and /proc below a root directory, so that tests can hand in another
machine's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nova_lxd.lxd.host.resources import cpu, devices, memory, storage, system


def collect(root: Path = Path("/")) -> dict[str, Any]:
    """LXD's ``Resources``: cpu, memory, gpu, network, storage, usb, pci, system."""
    return {
        "cpu": cpu.collect(root),
        "memory": memory.collect(root),
        "gpu": devices.gpus(root),
        "network": devices.network_cards(root),
        "storage": storage.collect(root),
        "usb": devices.usb(root),
        "pci": devices.pci(root),
        "system": system.collect(root),
    }
