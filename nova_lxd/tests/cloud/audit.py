# SPDX-License-Identifier: Apache-2.0
"""What the cloud has on the host, counted, so that a test can see what was left behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from cloud import lxd, ovn
from cloud.cli import open_cloud
from cloud.host import mounts_below

Inventory = dict[str, set[str]]


def inventory(state: Path) -> Inventory:
    """Containers, cached images, veths, switch ports, mounts, namespaces and volumes, by name."""
    cloud = open_cloud(state)
    host = cloud.first_host
    socket = lxd.socket_path(cloud, host)
    links = json.loads(subprocess.run(
        ["ip", "-json", "link", "show", "type", "veth"], check=True, capture_output=True,
        text=True).stdout)
    return {
        "containers": {entry["name"] for entry in lxd.instances(socket)},
        "network devices": {link["ifname"] for link in links},
        "switch ports": set(ovn.vsctl(cloud, host, "list-ports", "br-int").split()),
        "mounts": {str(point) for point in mounts_below(cloud.layout.state)},
        "instance directories": names(cloud.layout.state / "nova-compute/instances")
        | names(cloud.layout.state / "nova-compute/lxd/config-drives"),
        "image work files": names(cloud.layout.state / "nova-compute/lxd/images"),
    }


def names(directory: Path) -> set[str]:
    if not directory.is_dir():
        return set()
    return {entry.name for entry in directory.iterdir() if entry.name not in ("_base", "locks")}


def images(state: Path) -> set[str]:
    """The images in LXD's store, of every project."""
    cloud = open_cloud(state)
    socket = lxd.socket_path(cloud, cloud.first_host)
    found: set[str] = set()
    for project in lxd.request(socket, "GET", "/1.0/projects?recursion=1"):
        found.update(lxd.request(socket, "GET", f"/1.0/images?project={project['name']}"))
    return found


def difference(before: Inventory, after: Inventory) -> dict[str, list[str]]:
    """What ``after`` has and ``before`` had not, by kind; empty when nothing was left."""
    new = {kind: sorted(after[kind] - before[kind]) for kind in after}
    return {kind: found for kind, found in new.items() if found}
