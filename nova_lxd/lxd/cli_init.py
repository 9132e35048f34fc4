# SPDX-License-Identifier: Apache-2.0
"""``nova-lxd init``: configure a new daemon through its API (LXD: ``lxd init``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import yaml

from nova_lxd.lxd.addresses import DEFAULT_PORT
from nova_lxd.lxd.cli_client import ClientError, LocalClient
from nova_lxd.lxd.cli_interview import BRIDGE, Interview, Preseed
from nova_lxd.lxd.paths import Paths

_POOL_OPTIONS = ("storage_pool", "storage_create_device", "storage_create_loop")
_OPTIONS = (
    *_POOL_OPTIONS, "storage_backend", "network_address", "network_port", "trust_password",
)  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Run ``init`` as the arguments say; raises ClientError when the daemon refuses."""
    _check_modes(args)
    client = LocalClient()
    if args.dump:
        print(yaml.safe_dump(dump(client), sort_keys=False), end="")
        return 0
    if args.preseed:
        preseed = _read_preseed()
    elif args.auto or args.minimal:
        preseed = automatic(args, client)
    else:
        preseed = Interview(client, Paths.from_environment()).run()
    apply(client, preseed)
    return 0


def _read_preseed() -> Preseed:
    try:
        preseed = yaml.safe_load(sys.stdin) or {}
    except yaml.YAMLError as exc:
        raise ClientError(f"Reading the preseed failed: it is no YAML: {exc}") from exc
    if not isinstance(preseed, dict):
        raise ClientError("Reading the preseed failed: it is not a YAML mapping")
    return preseed


def _check_modes(args: argparse.Namespace) -> None:
    """:raises ClientError: the options exclude each other; LXD's sentences."""
    modes = [mode for mode in ("minimal", "auto", "preseed") if getattr(args, mode)]
    options = [option for option in _OPTIONS if getattr(args, option)]
    if args.dump and (modes or options):
        raise ClientError("Can't use --dump with other flags")
    if len(modes) > 1:
        raise ClientError(f"Can't use --{modes[0]} and --{modes[1]} together")
    if options and not args.auto:
        raise ClientError("Configuration flags require --auto")
    if not args.network_address:
        for option in ("network_port", "trust_password"):
            if getattr(args, option):
                flag = option.replace("_", "-")
                raise ClientError(f"--{flag} can't be used without --network-address")


def automatic(args: argparse.Namespace, client: LocalClient) -> Preseed:
    """What ``--auto`` and ``--minimal`` set up: one pool, one bridge, the default profile."""
    preseed: Preseed = {"config": {}, "networks": [], "storage_pools": [], "profiles": []}
    if args.network_address:
        host, port = args.network_address, args.network_port or DEFAULT_PORT
        shown = f"[{host}]" if ":" in host else host
        preseed["config"]["core.https_address"] = f"{shown}:{port}"
        if args.trust_password:
            preseed["config"]["core.trust_password"] = args.trust_password
    devices: dict[str, Any] = {}
    pool = _automatic_pool(args, client)
    pools = client.get("/1.0/storage-pools")
    if pools and any(getattr(args, option) for option in _POOL_OPTIONS):
        raise ClientError("Storage has already been configured")
    if not pools:
        preseed["storage_pools"].append(pool)
        devices["root"] = {"type": "disk", "path": "/", "pool": pool["name"]}
    if not any(n["managed"] for n in client.get("/1.0/networks?recursion=1")):
        preseed["networks"].append({"name": BRIDGE, "type": "bridge", "config": {}})
        devices["eth0"] = {"type": "nic", "name": "eth0", "network": BRIDGE}
    if devices:
        preseed["profiles"].append({"name": "default", "devices": devices})
    return preseed


def _automatic_pool(args: argparse.Namespace, client: LocalClient) -> Preseed:
    driver = args.storage_backend or "dir"
    known = client.get("/1.0")["environment"]["storage_supported_drivers"]
    if driver not in [supported["Name"] for supported in known]:
        raise ClientError(f"The requested backend '{driver}' isn't supported by lxd init")
    if driver == "dir" and any(getattr(args, option) for option in _POOL_OPTIONS):
        raise ClientError(
            "None of --storage-pool, --storage-create-device or --storage-create-loop may be used "
            "with the 'dir' backend"
        )
    if args.storage_create_device and args.storage_create_loop:
        raise ClientError(
            "Only one of --storage-create-device or --storage-create-loop can be specified"
        )
    config = {}
    if args.storage_create_device:
        config["source"] = args.storage_create_device
    elif args.storage_create_loop:
        config["size"] = f"{args.storage_create_loop}GiB"
    elif args.storage_pool:
        config["source"] = args.storage_pool
    return {"name": "default", "driver": driver, "config": config}


_NOUNS = (
    ("storage_pools", "/1.0/storage-pools", ("description", "config")),
    ("networks", "/1.0/networks", ("description", "config")),
    ("projects", "/1.0/projects", ("description", "config")),
    ("profiles", "/1.0/profiles", ("description", "config", "devices")),
)


def apply(client: LocalClient, preseed: Preseed) -> None:
    """Bring the server to what the preseed says: create what is missing, update what is there.

    :raises ClientError: the preseed has an unknown section, or the daemon refused a part; what
        had been done is undone.
    """
    known = {"config", "cluster", *(noun for noun, _url, _fields in _NOUNS)}
    unknown = preseed.keys() - known
    if unknown:
        raise ClientError(f"Applying the preseed failed: unknown sections {sorted(unknown)}")
    if preseed.get("cluster"):
        raise ClientError("Applying the preseed failed: this server cannot be part of a cluster")
    with ExitStack() as undo:
        if preseed.get("config"):
            _apply_config(client, preseed["config"], undo)
        for noun, url, fields in _NOUNS:
            for entry in preseed.get(noun) or []:
                _apply_one(client, url, entry, fields, undo)
        undo.pop_all()


def _apply_config(client: LocalClient, config: Preseed, undo: ExitStack) -> None:
    before = client.get("/1.0")["config"]
    undo.callback(_undo, client.patch, "/1.0", {"config": {k: before.get(k, "") for k in config}})
    client.patch("/1.0", {"config": {key: _text(value) for key, value in config.items()}})


def _text(value: object) -> str:
    """A configuration value that YAML read as a number or a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _apply_one(
    client: LocalClient, url: str, entry: Preseed, fields: tuple[str, ...], undo: ExitStack
) -> None:
    name = entry.get("name")
    if not name:
        raise ClientError(f"Applying the preseed failed: an entry of {url} has no name")
    entry = {**entry, "config": {k: _text(v) for k, v in (entry.get("config") or {}).items()}}
    query = f"?project={entry['project']}" if entry.get("project") else ""
    this = f"{url}/{name}{query}"
    try:
        current = client.get(this)
    except ClientError as exc:
        if exc.status != 404:
            raise
        client.post(f"{url}{query}", {k: v for k, v in entry.items() if k != "project"})
        undo.callback(_undo, client.delete, this)
        return
    merged = {
        field: {**(current.get(field) or {}), **(entry.get(field) or {})}
        if isinstance(current.get(field), dict)
        else entry.get(field, current.get(field))
        for field in fields
    }
    undo.callback(_undo, client.put, this, {field: current.get(field) for field in fields})
    client.put(this, merged)


def _undo(verb: Callable[..., object], *args: object) -> None:
    try:
        verb(*args)
    except ClientError as exc:
        print(f"nova-lxd: undoing a part failed, too: {exc}", file=sys.stderr)


def dump(client: LocalClient) -> Preseed:
    """The present configuration as a preseed."""
    # A password is shown as true; written back, that would become the password.
    config = {k: v for k, v in client.get("/1.0")["config"].items() if isinstance(v, str)}
    networks = [
        {**network, "project": "default"}
        for network in client.get("/1.0/networks?recursion=1")
        if network["managed"]
    ]
    result: Preseed = {"config": config}
    sources = {
        "networks": networks,
        "storage_pools": client.get("/1.0/storage-pools?recursion=1"),
        "profiles": client.get("/1.0/profiles?recursion=1"),
        "projects": client.get("/1.0/projects?recursion=1"),
    }
    keep = ("config", "description", "devices", "name", "type", "driver", "project")
    for noun, entries in sources.items():
        result[noun] = [{k: e[k] for k in keep if k in e} for e in entries]
    return result
