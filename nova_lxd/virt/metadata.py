# SPDX-License-Identifier: Apache-2.0
"""What cloud-init sees: the config drive tree and the keys that LXD image templates read.

The metadata service needs nothing here. A container has no CD drive: the config drive's files
are a directory on the host, bound read-only at /config-drive, where cloud-init looks for it.
"""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import nova.conf
from nova.api.metadata import base as instance_metadata
from nova.virt import configdrive, netutils
from oslo_utils import fileutils

from nova_lxd.virt import privsep

CONF = nova.conf.CONF

INTERFACES = "/etc/network/interfaces"


def cloud_init_keys(instance: Any, network_info: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the ``user.*`` keys from which LXD's cloud images make their NoCloud seed.

    They say the same as the other sources, so that it does not matter which one is found.
    """
    keys = {
        "user.meta-data": _meta_data(instance),
        "user.network-config": json.dumps(network_config(network_info)),
    }
    if instance.user_data:
        keys["user.user-data"] = base64.b64decode(instance.user_data).decode(errors="replace")
    return keys


def _meta_data(instance: Any) -> str:
    lines = [f"local-hostname: {json.dumps(instance.hostname or instance.name)}"]
    if instance.key_data:
        lines += ["public-keys:", f"  - {json.dumps(instance.key_data.strip())}"]
    return "\n".join(lines) + "\n"


def network_config(network_info: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return cloud-init's network configuration, version 2, of the ports."""
    ethernets = {}
    for index, vif in enumerate(network_info):
        name = f"eth{index}"
        entry: dict[str, Any] = {"match": {"macaddress": vif["address"]}, "set-name": name}
        mtu = vif["network"].get_meta("mtu")
        if mtu:
            entry["mtu"] = mtu
        for subnet in vif["network"]["subnets"]:
            _add_subnet(entry, subnet)
        ethernets[name] = entry
    return {"version": 2, "ethernets": ethernets}


def _add_subnet(entry: dict[str, Any], subnet: Any) -> None:
    version = subnet["version"]
    if subnet.get_meta("dhcp_server"):
        entry[f"dhcp{version}"] = True
        return
    prefix = str(subnet["cidr"]).partition("/")[2]
    for ip in subnet["ips"]:
        entry.setdefault("addresses", []).append(f"{ip['address']}/{prefix}")
    gateway = (subnet["gateway"] or {}).get("address")
    if gateway and subnet["ips"]:
        any_net = "0.0.0.0/0" if version == 4 else "::/0"
        entry.setdefault("routes", []).append({"to": any_net, "via": str(gateway)})
    servers = [dns["address"] for dns in subnet["dns"]]
    if servers:
        entry.setdefault("nameservers", {}).setdefault("addresses", []).extend(servers)


def network_files(network_info: Any) -> list[tuple[str, bytes]]:
    """Return the files that set up the network of an image without cloud-init.

    Nova makes them for networks whose addresses are to be injected: those without a DHCP server,
    where ``[DEFAULT]flat_injected`` is on.
    """
    text = netutils.get_injected_network_template(network_info)
    return [(INTERFACES, text.encode())] if text else []


class ConfigDrives:
    """The config drive trees of a host's instances.

    :param base: directory of the trees; one per instance uuid, secret from other users
    """

    def __init__(self, base: str) -> None:
        self._base = pathlib.Path(base)

    def path(self, instance: Any) -> str:
        """Return the tree's directory."""
        return str(self._tree(instance.uuid))

    def write(
        self,
        instance: Any,
        network_info: Any,
        files: list[tuple[str, bytes]],
        admin_password: str | None,
        owner: int,
    ) -> None:
        """Write the tree, anew if there is one, readable by the container's root only.

        :param owner: the host's id of the container's root
        """
        self.remove(instance)
        tree = self._tree(instance.uuid)
        fileutils.ensure_tree(str(tree), mode=0o700)
        # LXD walks here as root; nobody else may
        self._base.chmod(0o700)
        extra = {"admin_pass": admin_password} if admin_password else {}
        described = instance_metadata.InstanceMetadata(
            instance, content=files, extra_md=extra, network_info=network_info
        )
        for path, data in described.metadata_for_config_drive():
            target = tree / path
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            target.write_bytes(data.encode() if isinstance(data, str) else data)
            target.chmod(0o400)
        privsep.give_tree(str(tree), owner, owner)

    def remove(self, instance: Any) -> None:
        """Delete the tree; an absent one is deleted already."""
        tree = self._tree(instance.uuid)
        if tree.exists():
            privsep.delete_tree(str(tree))

    def _tree(self, uuid: str) -> pathlib.Path:
        return self._base / uuid


def wanted(instance: Any) -> bool:
    """Tell whether the instance gets a config drive."""
    return bool(configdrive.required_by(instance))


def container_root(config: dict[str, str]) -> int:
    """Return the host's user id of a container's root, from its LXD config."""
    maps = json.loads(config.get("volatile.idmap.next") or "[]")
    for entry in maps:
        if entry["Isuid"] and entry["Nsid"] == 0:
            return int(entry["Hostid"])
    return 0  # privileged: no map
