# SPDX-License-Identifier: Apache-2.0
"""Further compute hosts on the same machine: each a pair of a network and a mount namespace.

A host has its own switch, OVN controller and agent, container daemon and nova-compute.  The
hosts' switches meet on the bridge br-hosts, over which OVN's geneve tunnels run: in the userspace
datapath a tunnel's local address must be on a bridge of the switch itself.  The cloud's services
listen on loopback only; a relay offers them on the loopback of each host.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
from pathlib import Path

from cloud import ovn
from cloud.context import Cloud
from cloud.errors import CloudError
from cloud.host import mounts_below
from cloud.layout import UNDERLAY_BRIDGE, write_private
from cloud.run import run
from cloud.services import Probe, Service
from cloud.settings import HostRecord
from cloud.steps import Step

UNDERLAY = ipaddress.IPv4Network("10.213.78.0/24")
RELAYED = ("rabbitmq", "memcached", "keystone", "glance", "placement", "nova", "metadata",
           "neutron", "cinder", "ovn-nb", "ovn-sb")
# A host name is part of an interface's name, which has at most 15 characters.
NAME = re.compile(r"[a-z][a-z0-9]{0,9}\Z")


def add(cloud: Cloud, name: str) -> HostRecord:
    """Enter a host into the settings; its parts are made by the next run of the steps.

    Raises CloudError for a name that is taken or cannot be one.
    """
    if not NAME.match(name):
        raise CloudError(f"{name!r} cannot be the name of a host.",
                         remedy="use a lower-case letter, then up to nine letters and digits")
    if any(host.name == name for host in cloud.settings.hosts):
        raise CloudError(f"there is a host {name} already.", remedy="see 'quickstart status'")
    addresses = UNDERLAY.hosts()
    first = str(next(addresses))
    used = {host.address for host in cloud.settings.hosts} | {first}
    record = HostRecord(name, next(str(a) for a in addresses if str(a) not in used),
                        f"nova-lxd-{name}")
    cloud.settings.hosts[0].address = first
    cloud.settings.hosts.append(record)
    cloud.settings.save(cloud.layout)
    return record


def outer_port(host: HostRecord) -> str:
    return f"nlx-{host.name}"


def make_namespaces(cloud: Cloud, host: HostRecord) -> bool:
    """The host's network namespace, wired to the others, and its mount namespace."""
    if Path("/run/netns", host.namespace).exists():
        return False
    log = cloud.log("step-hosts")
    run(("ip", "netns", "add", host.namespace), log=log)
    run(("ip", "-n", host.namespace, "link", "set", "lo", "up"), log=log)
    run(("ip", "link", "add", outer_port(host), "type", "veth",
         "peer", "name", "underlay", "netns", host.namespace), log=log)
    for prefix, port in (((), outer_port(host)), (("-n", host.namespace), "underlay")):
        run(("ip", *prefix, "link", "set", port, "up"), log=log)
    run(("ip", "netns", "exec", host.namespace, "ethtool", "-K", "underlay", "tx", "off"), log=log)
    run(("ethtool", "-K", outer_port(host), "tx", "off"), log=log)
    return True


# In the new mount namespace: this host's own /run/netns, because its agent makes namespaces of
# the same names as its neighbours', and a /sys that shows this host's network devices.
PREPARE_MOUNTS = """
set -e
mount -t tmpfs -o mode=755 none /run/netns
mkdir -p "$1"
mount --rbind /sys/fs/cgroup "$1"
mount -t sysfs none /sys
mount --rbind "$1" /sys/fs/cgroup
umount -l "$1"
"""


def make_mount_namespace(cloud: Cloud, host: HostRecord) -> bool:
    keeper = cloud.mount_namespace(host)
    directory = keeper.parent
    if any(point == keeper for point in mounts_below(directory)):
        return False
    log = cloud.log("step-hosts")
    if not mounts_below(directory):
        # A mount namespace can be kept only below a mount that is not shared.
        run(("mount", "--bind", directory, directory), log=log)
        run(("mount", "--make-private", directory), log=log)
    keeper.touch()
    run(("nsenter", f"--net=/run/netns/{host.namespace}", "unshare", f"--mount={keeper}",
         "--propagation", "slave", "sh", "-c", PREPARE_MOUNTS, "sh",
         directory / f"{host.name}.cgroup"), log=log)
    return True


def join_underlay(cloud: Cloud, host: HostRecord) -> None:
    """Give the host's switch the bridge br-hosts with the host's address on it."""
    kind = ovn.datapath_type()
    words = ["--may-exist", "add-br", UNDERLAY_BRIDGE, "--",
             "set", "bridge", UNDERLAY_BRIDGE, f"datapath_type={kind}"]
    neighbours = cloud.settings.hosts[1:] if host is cloud.first_host else [host]
    for neighbour in neighbours:
        port = outer_port(neighbour) if host is cloud.first_host else "underlay"
        words += ["--", "--may-exist", "add-port", UNDERLAY_BRIDGE, port]
    ovn.vsctl(cloud, host, *words)
    ovn.give_address(cloud, host, UNDERLAY_BRIDGE, f"{host.address}/{UNDERLAY.prefixlen}")


def relay(cloud: Cloud) -> Service:
    """One haproxy that listens on every added host's loopback and connects on the machine's."""
    lines = ["# Written by quickstart at every 'up': changes here are lost.", "defaults",
             "  mode tcp", "  timeout connect 10s", "  timeout client 24h", "  timeout server 24h"]
    for name in RELAYED:
        if name == "cinder" and not cloud.has("cinder"):
            continue
        lines.append(f"listen {name}")
        lines += [f"  bind {cloud.address(name)} namespace {host.namespace}"
                  for host in cloud.settings.hosts[1:]]
        lines.append(f"  server cloud {cloud.address(name)}")
    path = cloud.etc("relay.cfg")
    write_private(path, "\n".join(lines) + "\n")
    return Service(
        name="host-relay", argv=(shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f",
                                 str(path)),
        log=str(cloud.log("host-relay")), probe=Probe("alive", "1"), watch=(str(path),))


def remove_namespaces(cloud: Cloud) -> None:
    """Undo make_namespaces and make_mount_namespace for every added host."""
    log = cloud.log("step-hosts")
    for host in cloud.settings.hosts[1:]:
        if os.path.exists(f"/run/netns/{host.namespace}"):
            run(("ip", "netns", "delete", host.namespace), log=log)
        links = json.loads(run(("ip", "-json", "link", "show"), log=log))
        if any(link["ifname"] == outer_port(host) for link in links):
            run(("ip", "link", "delete", outer_port(host)), log=log)
    if cloud.settings.hosts[1:]:
        for point in mounts_below(cloud.data("hosts")):
            run(("umount", point), log=log)


def steps(cloud: Cloud) -> list[Step]:
    added = cloud.settings.hosts[1:]
    if not added:
        return []
    result = [
        Step("hosts/relay ready", lambda: False, needs=tuple(
            f"hosts/namespaces {host.name}" for host in added)),
        cloud.start("host-relay", lambda: relay(cloud), "hosts/relay ready"),
    ]
    for host in added:
        result += [
            Step(f"hosts/network of {host.name}", lambda host=host: make_namespaces(cloud, host),
                 needs=("packages",)),
            Step(f"hosts/namespaces {host.name}",
                 lambda host=host: make_mount_namespace(cloud, host),
                 needs=(f"hosts/network of {host.name}",)),
        ]
    for host in cloud.settings.hosts:
        switch = f"start {cloud.on(host, 'ovs-vswitchd')}"
        result.append(Step(f"hosts/underlay of {host.name}",
                           lambda host=host: join_underlay(cloud, host),
                           needs=(switch, *(f"hosts/namespaces {h.name}" for h in added))))
    return result


