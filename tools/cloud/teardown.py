# SPDX-License-Identifier: Apache-2.0
"""Stop the cloud, and remove every trace of it."""

from __future__ import annotations

import contextlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cloud import hosts, lxd, outbound, ovn, plan
from cloud.context import Cloud
from cloud.errors import CloudError
from cloud.host import mounts_below, processes_of
from cloud.layout import INTEGRATION_BRIDGE
from cloud.run import run
from cloud.services import Probe
from cloud.settings import HostRecord


def down(cloud: Cloud, *, remove_instances: bool = False) -> None:
    """Stop servers and services, the last started first; data stays.

    With ``remove_instances`` the containers are deleted as well.  Raises CloudError when
    something of the cloud still runs afterwards.
    """
    conditions = cloud.controller.conditions()
    levels = plan.service_levels(cloud)
    known = {name for level in levels for name in level}
    with ThreadPoolExecutor(16, "stop") as pool:
        # Guests go after nova-compute, which would report their end as the users' wish, and
        # before the network that they use.
        computes = sorted(name for name in conditions if name.partition("@")[0] == "nova-compute")
        rest = sorted(conditions.keys() - known - set(computes))
        for number, level in enumerate([computes, rest, *reversed(levels)]):
            if number == 1:
                stop_guests(cloud, remove_instances)
            here = [name for name in level if conditions.pop(name, None)]
            for name in pool.map(lambda name: stop_service(cloud, name), here):
                print(f"stopped {name}", flush=True)
    strays = cloud.controller.finish()
    if strays:
        print(f"ended what they had left running: {', '.join(sorted(set(strays)))}")
    remove_metadata_namespaces(cloud)
    outbound.close_way(cloud)


def stop_service(cloud: Cloud, name: str) -> str:
    """Stop one service, and undo what it did to the machine; returns its name."""
    is_switch = name.partition("@")[0] == "ovs-vswitchd"
    if is_switch:
        remove_ports(cloud, name)
    cloud.controller.stop(name)
    if is_switch:
        ovn.remove_datapath(cloud, host_of(cloud, name))
    return name


def stop_guests(cloud: Cloud, remove: bool) -> None:
    for host in cloud.settings.hosts:
        if remove:
            lxd.delete_all(cloud, host)
        elif count := lxd.stop_instances(cloud, host):
            print(f"stopped {count} servers; nova starts them again at the next 'up'")


def host_of(cloud: Cloud, service: str) -> HostRecord:
    suffix = service.partition("@")[2]
    return next((h for h in cloud.settings.hosts if h.name == suffix), cloud.first_host)


def remove_ports(cloud: Cloud, service: str) -> None:
    """Take the ports off the switch and delete the veth pairs behind them.

    A veth that is made anew under a port left in the switch's database passes no packet.
    """
    host = host_of(cloud, service)
    if not Probe("unix", str(ovn.home(cloud, host) / "db.sock")).answers():
        return
    log = cloud.log("step-ovn")
    bridges = ovn.vsctl(cloud, host, "list-br").split()
    if INTEGRATION_BRIDGE not in bridges:
        return
    inside = cloud.enter(host)
    for port in ovn.vsctl(cloud, host, "list-ports", INTEGRATION_BRIDGE).split():
        if port.startswith("tap"):
            ovn.vsctl(cloud, host, "--if-exists", "del-port", INTEGRATION_BRIDGE, port)
            with contextlib.suppress(CloudError):  # gone already: its other end was removed
                run((*inside, "ip", "link", "delete", port), log=log)


def remove_metadata_namespaces(cloud: Cloud) -> None:
    """Delete the namespaces in which the OVN agents ran their metadata proxies."""
    log = cloud.log("step-ovn")
    for state in cloud.layout.state.glob("neutron-ovn-agent*"):
        for config in state.glob("ovn-metadata-proxy/*.conf"):
            namespace = f"ovnmeta-{config.stem}"
            if Path("/run/netns", namespace).exists():
                run(("ip", "netns", "delete", namespace), log=log)
            config.unlink()
        for pid_file in state.glob("external/pids/*.pid.haproxy"):
            pid_file.unlink()


def destroy(cloud: Cloud) -> None:
    """Remove the cloud: processes, mounts, bridges, namespaces, veths and files.

    Raises CloudError when something could not be removed, saying what.
    """
    down(cloud, remove_instances=True)
    hosts.remove_namespaces(cloud)
    unmount_below(cloud.layout.state, cloud.log("step-destroy"))
    left = leftovers(cloud)
    if left:
        raise CloudError("this is still there: " + "; ".join(left) + ".",
                         remedy="end what uses it, then run 'quickstart destroy' again")
    shutil.rmtree(cloud.layout.state)


def unmount_below(directory: Path, log: Path) -> None:
    for point in mounts_below(directory):
        run(("umount", point), log=log)


def leftovers(cloud: Cloud) -> list[str]:
    """What of the cloud is on the host besides its files; empty after a clean destroy."""
    left = [f"mount {point}" for point in mounts_below(cloud.layout.state)]
    left += [f"network device {name}" for name in ovn.bridges_left(cloud)]
    if outbound.is_open(cloud):
        left.append(f"nftables table {outbound.table(cloud)}")
    left += [f"process {pid} ({line[:60]})" for pid, line in processes_of(cloud.layout.state)]
    return left
