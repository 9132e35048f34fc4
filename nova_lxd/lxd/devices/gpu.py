# SPDX-License-Identifier: Apache-2.0
"""gpu, gputype physical: the nodes of the host's graphics cards in the instance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.lxd.devices import nodes
from nova_lxd.lxd.devices.interface import Device, RunConfig, Volatile
from nova_lxd.lxd.devices.unix import owner_keys
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.network import values as v
from nova_lxd.lxd.schema.configkeys import KeyTable

_SYSFS = Path("/sys/class/drm")
_DEV = Path("/dev")
_NVIDIA_VENDOR = "10de"
# Nodes that every user of an NVIDIA card needs besides the card's own.
_NVIDIA_SHARED = re.compile(r"nvidia(ctl|-modeset|-uvm|-uvm-tools)")
_PCI_ADDRESS = re.compile(r"(?:[0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]")


@dataclass(frozen=True)
class Card:
    """One graphics card: its number, PCI identity, and its nodes below /dev."""

    id: int
    vendor: str
    product: str
    pci: str
    nodes: tuple[Path, ...]


def cards(sysfs: Path = _SYSFS, dev: Path = _DEV) -> list[Card]:
    """The graphics cards of the host."""
    found = []
    for entry in sorted(sysfs.glob("card[0-9]*")) if sysfs.is_dir() else []:
        if not re.fullmatch(r"card\d+", entry.name):
            continue  # A connector of a card, such as card0-HDMI-A-1.
        device = (entry / "device").resolve()
        names = sorted(node.name for node in (device / "drm").glob("*"))
        paths = [dev / "dri" / name for name in names if (dev / "dri" / name).exists()]
        vendor = _identity(device / "vendor")
        if vendor == _NVIDIA_VENDOR:
            paths += _nvidia_nodes(device.name, dev)
        number = int(entry.name.removeprefix("card"))
        found.append(Card(number, vendor, _identity(device / "device"), device.name, tuple(paths)))
    return found


def _identity(file: Path) -> str:
    return file.read_text().strip().removeprefix("0x") if file.is_file() else ""


def _nvidia_nodes(pci: str, dev: Path) -> Iterator[Path]:
    information = Path("/proc/driver/nvidia/gpus") / pci / "information"
    if information.is_file():
        minor = re.search(r"Device Minor:\s*(\d+)", information.read_text())
        if minor and (dev / f"nvidia{minor.group(1)}").exists():
            yield dev / f"nvidia{minor.group(1)}"
    yield from (
        node for node in sorted(dev.glob("nvidia*")) if _NVIDIA_SHARED.fullmatch(node.name)
    )


def _device_id(value: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{4}", value):
        raise ValueError("Invalid value, must be four lower case hex characters")


def _pci_address(value: str) -> None:
    if not _PCI_ADDRESS.fullmatch(value):
        raise ValueError("Invalid PCI address")


def _gpu_type(value: str) -> None:
    if value != "physical":
        raise ValueError(f'Unsupported GPU type {v.quoted(value)}; only "physical" is available')


class Gpu(Device):
    """LXD's device type "gpu" with gputype "physical"."""

    keys = KeyTable(
        "gpu device",
        [
            v.key("gputype", "string", "Only physical is available.", _gpu_type, "physical"),
            v.key("vendorid", "string", "PCI vendor.", _device_id),
            v.key("productid", "string", "PCI product.", _device_id),
            v.key("id", "string", "Number of the card.", v.integer(0, 1023)),
            v.key("pci", "string", "PCI address.", _pci_address),
            *owner_keys(),
            v.key("user.*", "string", "Free keys of the user."),
        ],
    )

    def check(self) -> None:
        if self.get("pci"):
            for key in ("id", "productid", "vendorid"):
                if self.get(key):
                    raise BadRequest(f'Cannot use "{key}" when "pci" is set')
        if self.get("id"):
            for key in ("productid", "vendorid"):
                if self.get(key):
                    raise BadRequest(f'Cannot use "{key}" when "id" is set')

    def _wanted(self, card: Card) -> bool:
        pci = self.get("pci").lower()
        if pci and card.pci != (pci if pci.count(":") == 2 else f"0000:{pci}"):
            return False
        if self.get("id") and card.id != int(self.get("id")):
            return False
        if self.get("vendorid") and card.vendor != self.get("vendorid"):
            return False
        return not self.get("productid") or card.product == self.get("productid")

    def start(self) -> RunConfig:
        nodes.remove(self.directory(), self.name)
        paths = dict.fromkeys(p for card in cards() if self._wanted(card) for p in card.nodes)
        if not paths:
            raise BadRequest("Failed to detect requested GPU device")
        run = RunConfig()
        for path in paths:
            kind, major, minor = nodes.kind_of(path)
            node = nodes.Node(
                kind=kind,
                major=major,
                minor=minor,
                target=str(path),
                mode=int(self.get("mode"), 8) if self.get("mode") else nodes.DEFAULT_MODE,
                uid=int(self.get("uid") or 0),
                gid=int(self.get("gid") or 0),
            )
            made = nodes.make(self.directory(), self.name, node, self.instance)
            run.mounts += made.mounts
            run.device_rules += made.device_rules
        return run

    def stop(self) -> RunConfig:
        return nodes.taken(self.directory(), self.name)

    def post_stop(self) -> Volatile:
        nodes.remove(self.directory(), self.name)
        return {}
