# SPDX-License-Identifier: Apache-2.0
"""``nova-lxd init``: configure a new daemon through its API (LXD: ``lxd init``)."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable
from typing import Any

import yaml

from nova_lxd.lxd.cli_client import ClientError, LocalClient

Preseed = dict[str, Any]
_BRIDGE = "lxdbr0"


def main(args: argparse.Namespace) -> int:
    """Run ``init`` as the arguments say; raises ClientError when the daemon refuses."""
    client = LocalClient()
    if args.dump:
        print(yaml.safe_dump(dump(client), sort_keys=False), end="")
        return 0
    if args.preseed:
        preseed = yaml.safe_load(sys.stdin) or {}
        if not isinstance(preseed, dict):
            raise ClientError("Reading the preseed failed: it is not a YAML mapping")
    elif args.auto or args.minimal:
        preseed = automatic(args, client)
    else:
        preseed = interview(client)
    apply(client, preseed)
    return 0


def automatic(args: argparse.Namespace, client: LocalClient) -> Preseed:
    """What ``--auto`` and ``--minimal`` set up: one pool, one bridge, the default profile."""
    preseed: Preseed = {"config": {}, "networks": [], "storage_pools": [], "profiles": []}
    if args.network_address:
        preseed["config"]["core.https_address"] = f"{args.network_address}:{args.network_port}"
        if args.trust_password:
            preseed["config"]["core.trust_password"] = args.trust_password
    devices: dict[str, Any] = {}
    if not client.get("/1.0/storage-pools"):
        pool = _automatic_pool(args)
        preseed["storage_pools"].append(pool)
        devices["root"] = {"type": "disk", "path": "/", "pool": pool["name"]}
    if not any(n["managed"] for n in client.get("/1.0/networks?recursion=1")):
        preseed["networks"].append({"name": _BRIDGE, "type": "bridge", "config": {}})
        devices["eth0"] = {"type": "nic", "name": "eth0", "network": _BRIDGE}
    if devices:
        preseed["profiles"].append({"name": "default", "devices": devices})
    return preseed


def _automatic_pool(args: argparse.Namespace) -> Preseed:
    driver = args.storage_backend or "dir"
    config = {}
    if args.storage_create_device:
        config["source"] = args.storage_create_device
    elif args.storage_create_loop:
        config["size"] = f"{args.storage_create_loop}GiB"
    elif args.storage_pool:
        config["source"] = args.storage_pool
    return {"name": "default", "driver": driver, "config": config}


def interview(client: LocalClient, ask: Callable[[str], str] = input) -> Preseed:
    """Ask the administrator; returns the answers as a preseed."""
    preseed: Preseed = {"config": {}, "networks": [], "storage_pools": [], "profiles": []}
    devices: dict[str, Any] = {}
    if _yes(ask, "Do you want to configure a new storage pool?", True):
        pool = _ask_pool(client, ask)
        preseed["storage_pools"].append(pool)
        devices["root"] = {"type": "disk", "path": "/", "pool": pool["name"]}
    if _yes(ask, "Would you like to create a new local network bridge?", True):
        network = _ask_network(ask)
        preseed["networks"].append(network)
        devices["eth0"] = {"type": "nic", "name": "eth0", "network": network["name"]}
    if _yes(ask, "Would you like the server to be available over the network?", False):
        address = _answer(ask, "Address to bind to (not including port)", "all")
        port = _answer(ask, "Port to bind to", "8443")
        preseed["config"]["core.https_address"] = (
            f"{'[::]' if address == 'all' else address}:{port}"
        )
        password = getpass.getpass("Trust password for new clients (empty: use tokens): ")
        if password:
            preseed["config"]["core.trust_password"] = password
    if devices:
        preseed["profiles"].append({"name": "default", "devices": devices})
    if _yes(ask, 'Would you like a YAML "init" preseed to be printed?', False):
        print(yaml.safe_dump(preseed, sort_keys=False), end="")
    return preseed


def _ask_pool(client: LocalClient, ask: Callable[[str], str]) -> Preseed:
    drivers = [
        driver["Name"] for driver in client.get("/1.0")["environment"]["storage_supported_drivers"]
    ]
    name = _answer(ask, "Name of the new storage pool", "default")
    default = "btrfs" if "btrfs" in drivers else "dir"
    driver = _answer(ask, f"Name of the storage backend to use ({', '.join(drivers)})", default)
    config: dict[str, str] = {}
    if driver != "dir":
        if _yes(ask, "Would you like to use an existing empty block device?", False):
            config["source"] = _answer(ask, "Path to the existing block device", "")
        else:
            config["size"] = _answer(ask, "Size of the new loop file", "30GiB")
    return {"name": name, "driver": driver, "config": config}


def _ask_network(ask: Callable[[str], str]) -> Preseed:
    name = _answer(ask, "What should the new bridge be called?", _BRIDGE)
    config = {
        f"ipv{family}.address": _answer(
            ask, f"What IPv{family} address should be used? (CIDR, auto or none)", "auto"
        )
        for family in (4, 6)
    }
    return {"name": name, "type": "bridge", "config": config}


def _answer(ask: Callable[[str], str], question: str, default: str) -> str:
    shown = f" [default={default}]" if default else ""
    return ask(f"{question}{shown}: ").strip() or default


def _yes(ask: Callable[[str], str], question: str, default: bool) -> bool:
    word = "yes" if default else "no"
    while True:
        given = ask(f"{question} (yes/no) [default={word}]: ").strip().lower() or word
        if given in ("yes", "y", "no", "n"):
            return given in ("yes", "y")
        print("Answer yes or no.")


_NOUNS = (
    ("storage_pools", "/1.0/storage-pools", ("description", "config")),
    ("networks", "/1.0/networks", ("description", "config")),
    ("projects", "/1.0/projects", ("description", "config")),
    ("profiles", "/1.0/profiles", ("description", "config", "devices")),
)


def apply(client: LocalClient, preseed: Preseed) -> None:
    """Bring the server to what the preseed says: create what is missing, update what is there.

    :raises ClientError: the preseed has an unknown section, or the daemon refused a part.
    """
    known = {"config", "cluster", *(noun for noun, _url, _fields in _NOUNS)}
    unknown = preseed.keys() - known
    if unknown:
        raise ClientError(f"Applying the preseed failed: unknown sections {sorted(unknown)}")
    if preseed.get("config"):
        client.patch("/1.0", {"config": preseed["config"]})
    for noun, url, fields in _NOUNS:
        for entry in preseed.get(noun) or []:
            _apply_one(client, url, entry, fields)


def _apply_one(client: LocalClient, url: str, entry: Preseed, fields: tuple[str, ...]) -> None:
    name = entry.get("name")
    if not name:
        raise ClientError(f"Applying the preseed failed: an entry of {url} has no name")
    query = f"?project={entry['project']}" if entry.get("project") else ""
    try:
        current = client.get(f"{url}/{name}{query}")
    except ClientError as exc:
        if exc.status != 404:
            raise
        body = {key: value for key, value in entry.items() if key != "project"}
        client.post(f"{url}{query}", body)
        return
    merged = {
        field: {**(current.get(field) or {}), **(entry.get(field) or {})}
        if isinstance(current.get(field), dict)
        else entry.get(field, current.get(field))
        for field in fields
    }
    client.put(f"{url}/{name}{query}", merged)


def dump(client: LocalClient) -> Preseed:
    """The present configuration as a preseed."""
    config = {k: v for k, v in client.get("/1.0")["config"].items() if isinstance(v, str)}
    networks = [n for n in client.get("/1.0/networks?recursion=1") if n["managed"]]
    result: Preseed = {"config": config}
    sources = {
        "networks": networks,
        "storage_pools": client.get("/1.0/storage-pools?recursion=1"),
        "profiles": client.get("/1.0/profiles?recursion=1"),
        "projects": client.get("/1.0/projects?recursion=1"),
    }
    keep = ("name", "description", "config", "devices", "type", "driver")
    for noun, entries in sources.items():
        result[noun] = [{k: e[k] for k in keep if k in e} for e in entries]
    return result
