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
    """Containers, switch ports, veths, mounts and files of instances, of all hosts, by name."""
    cloud = open_cloud(state)
    found: Inventory = {
        "containers": set(), "switch ports": set(), "instance files": set(),
        "network devices": set(),
        "mounts": {str(point) for point in mounts_below(cloud.layout.state)},
    }
    for host in cloud.settings.hosts:
        found["network devices"] |= veths(host.namespace)
        found["containers"] |= {
            f"{entry['project']}/{entry['name']}"
            for entry in lxd.instances(lxd.socket_path(cloud, host))}
        found["switch ports"] |= set(ovn.vsctl(cloud, host, "list-ports", "br-int").split())
        compute = cloud.layout.state / cloud.on(host, "nova-compute")
        for name in ("instances", "lxd/config-drives", "lxd/images"):
            found["instance files"] |= {
                str(path.relative_to(compute.parent)) for path in (compute / name).rglob("*")
                if path.is_file()}
    return found


def veths(namespace: str) -> set[str]:
    """The veths of a host that has a network namespace of its own, or of the machine's."""
    inside = ("-n", namespace) if namespace else ()
    done = subprocess.run(["ip", *inside, "-json", "link", "show", "type", "veth"], check=True,
                          capture_output=True, text=True)
    return {link["ifname"] for link in json.loads(done.stdout)}


def images(state: Path) -> set[str]:
    """The images in LXD's store, of every project."""
    cloud = open_cloud(state)
    found: set[str] = set()
    for host in cloud.settings.hosts:
        socket = lxd.socket_path(cloud, host)
        for project in lxd.request(socket, "GET", "/1.0/projects?recursion=1"):
            found.update(lxd.request(socket, "GET", f"/1.0/images?project={project['name']}"))
    return found


def difference(before: Inventory, after: Inventory) -> dict[str, list[str]]:
    """What ``after`` has and ``before`` had not, by kind; empty when nothing was left."""
    new = {kind: sorted(after[kind] - before[kind]) for kind in after}
    return {kind: found for kind, found in new.items() if found}
