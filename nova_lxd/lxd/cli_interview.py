# SPDX-License-Identifier: Apache-2.0
"""The questions of ``nova-lxd init``: those of ``lxd init``, but for clusters and MAAS.

They are worded and ordered as there, so that answers prepared for LXD fit.
"""

from __future__ import annotations

import getpass
import ipaddress
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nova_lxd.lxd.cli_client import ClientError, LocalClient
from nova_lxd.lxd.paths import Paths

Preseed = dict[str, Any]
Check = Callable[[str], bool]
BRIDGE = "lxdbr0"
_GIB = 1 << 30
_LOOP_MOST, _LOOP_LEAST, _LOOP_PART = 30, 5, 5


class Interview:
    """Asks on the terminal, or on standard input when that is none."""

    def __init__(self, client: LocalClient, paths: Paths) -> None:
        self._client = client
        self._paths = paths
        self._profile: Preseed = {}

    def run(self) -> Preseed:
        """The answers as a preseed.

        :raises ClientError: the answers ended before the questions did.
        """
        preseed: Preseed = {"config": {}, "networks": [], "storage_pools": [], "profiles": []}
        if _yes("Do you want to configure a new storage pool?", True):
            preseed["storage_pools"].append(self._pool())
        if _yes("Would you like to create a new local network bridge?", True):
            preseed["networks"].append(self._bridge())
        elif _yes(
            "Would you like to configure LXD to use an existing bridge or host interface?", False
        ):
            self._interface()
        if _yes("Would you like the LXD server to be available over the network?", False):
            preseed["config"].update(_listener())
        if not _yes("Would you like stale cached images to be updated automatically?", True):
            preseed["config"]["images.auto_update_interval"] = "0"
        if self._profile:
            preseed["profiles"].append({"name": "default", "devices": self._profile})
        if _yes('Would you like a YAML "lxd init" preseed to be printed?', False):
            print(yaml.safe_dump(preseed, sort_keys=False))
        return preseed

    def _pool(self) -> Preseed:
        taken = {url.rpartition("/")[2] for url in self._client.get("/1.0/storage-pools")}
        name = _new_name("Name of the new storage pool", "default", taken, "storage pool")
        known = self._client.get("/1.0")["environment"]["storage_supported_drivers"]
        drivers = sorted(driver["Name"] for driver in known)
        driver = "btrfs" if "btrfs" in drivers else drivers[0]
        if len(drivers) > 1:
            choices = ", ".join(drivers)
            driver = _answer(
                f"Name of the storage backend to use ({choices})", driver, drivers.__contains__
            )
        self._profile["root"] = {"type": "disk", "path": "/", "pool": name}
        config = {} if driver == "dir" else _backing(driver.upper(), self._paths.root)
        return {"name": name, "driver": driver, "config": config}

    def _bridge(self) -> Preseed:
        networks = self._client.get("/1.0/networks?recursion=1")
        taken = {network["name"] for network in networks if network["managed"]}
        name = _new_name("What should the new bridge be called?", BRIDGE, taken, "network bridge")
        config = {}
        for version in (4, 6):
            address = _answer(
                f"What IPv{version} address should be used? "
                "(CIDR subnet notation, “auto” or “none”)",
                "auto",
                _address_of(version),
            )
            config[f"ipv{version}.address"] = address
            if address not in ("auto", "none"):
                question = f"Would you like LXD to NAT IPv{version} traffic on your bridge?"
                config[f"ipv{version}.nat"] = "true" if _yes(question, True, "") else "false"
        self._profile["eth0"] = {"type": "nic", "name": "eth0", "network": name}
        return {"name": name, "type": "", "config": config}

    def _interface(self) -> None:
        while True:
            name = _answer("Name of the existing bridge or host interface")
            link = Path("/sys/class/net", name)
            if "/" not in name and link.exists():
                break
            print("The requested interface doesn't exist. Please choose another one.")
        kind = "bridged" if (link / "bridge").exists() else "macvlan"
        self._profile["eth0"] = {"type": "nic", "name": "eth0", "nictype": kind, "parent": name}


def _backing(driver: str, root: Path) -> dict[str, str]:
    """Where a pool that is no directory keeps its data."""
    if not _yes(f"Create a new {driver} pool?", True):
        return {"source": _answer(f"Name of the existing {driver} pool or dataset")}
    question = "Would you like to use an existing empty block device (e.g. a disk or partition)?"
    if _yes(question, False):
        return {"source": _answer("Path to the existing block device", check=_is_block_device)}
    free = shutil.disk_usage(root).free // _GIB // _LOOP_PART
    default = max(_LOOP_LEAST, min(_LOOP_MOST, free))
    size = _answer(
        "Size in GiB of the new loop device (1GiB minimum)", f"{default}GiB", _is_gibibytes
    )
    return {"size": f"{size.removesuffix('GiB')}GiB"}


def _listener() -> dict[str, str]:
    """Address and trust password of the HTTPS API."""
    address = _answer("Address to bind LXD to (not including port)", "all", _is_host)
    port = _answer("Port to bind LXD to", "8443", _is_port)
    host = "::" if address == "all" else address
    config = {"core.https_address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    password = _password()
    if password:
        config["core.trust_password"] = password
    else:
        print("No password set, client certificates will have to be manually trusted.")
    return config


def _password() -> str:
    while True:
        password = _secret("Trust password for new clients: ")
        if not password or _secret("Again: ") == password:
            return password
        print("The two passwords differ; try again.")


def _secret(prompt: str) -> str:
    """A line that is not shown on a terminal."""
    return getpass.getpass(prompt) if sys.stdin.isatty() else _line(prompt)


def _line(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError as exc:
        raise ClientError(
            "Asking for the configuration failed: standard input ended; answer every question, "
            "or use --auto or --preseed"
        ) from exc


def _answer(question: str, default: str = "", check: Check = bool) -> str:
    shown = f"{question} [default={default}]: " if default else f"{question}: "
    while True:
        given = _line(shown) or default
        if check(given):
            return given
        print("Invalid input, try again.\n")


def _yes(question: str, default: bool, choices: str = "(yes/no) ") -> bool:
    word = "yes" if default else "no"
    shown = f"{question} {choices}[default={word}]: "
    while True:
        given = (_line(shown) or word).lower()
        if given in ("yes", "y", "no", "n"):
            return given in ("yes", "y")
        print("Invalid input, try again.\n")


def _new_name(question: str, default: str, taken: set[str], what: str) -> str:
    while True:
        name = _answer(question, default)
        if name not in taken:
            return name
        print(f'The requested {what} "{name}" already exists. Please choose another name.')


def _address_of(version: int) -> Check:
    def check(given: str) -> bool:
        if given in ("auto", "none"):
            return True
        try:
            return "/" in given and ipaddress.ip_interface(given).version == version
        except ValueError:
            return False

    return check


def _is_host(given: str) -> bool:
    if given == "all":
        return True
    try:
        ipaddress.ip_address(given)
    except ValueError:
        return False
    return True


def _is_port(given: str) -> bool:
    return given.isascii() and given.isdigit() and 0 < int(given) < 65536


def _is_gibibytes(given: str) -> bool:
    number = given.removesuffix("GiB")
    return number.isascii() and number.isdigit() and int(number) >= 1


def _is_block_device(given: str) -> bool:
    try:
        return stat.S_ISBLK(Path(given).stat().st_mode)
    except (OSError, ValueError):
        return False
