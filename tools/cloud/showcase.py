# SPDX-License-Identifier: Apache-2.0
"""The first server: created, reached over ssh, shown; and what to type next."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from cloud import tenancy
from cloud.context import Cloud
from cloud.errors import CloudError
from cloud.rest import Endpoint, Rest
from cloud.run import shorten

SERVER = "hello"
CONSOLE_LINES = 12
COMMAND = "hostname; uname -sr; uptime -p"


def first_server(cloud: Cloud) -> dict[str, Any]:
    """The server named hello of project demo, made if there is none; ACTIVE on return."""
    rest = Rest.login(cloud, "demo")
    compute = rest.service("compute")
    found = compute.get(f"/servers/detail?name=^{SERVER}$")["servers"]
    if found:
        server = found[0]
    else:
        network = rest.service("network").get(f"/networks?name={tenancy.TENANT_NETWORK}")
        images = rest.service("image").get(f"/images?name={cloud.settings.image}")["images"]
        server = compute.post("/servers", {"server": {
            "name": SERVER, "imageRef": images[0]["id"], "flavorRef": "c1.small",
            "key_name": tenancy.KEY_NAME,
            "networks": [{"uuid": network["networks"][0]["id"]}]}})["server"]
    return wait_active(compute, server["id"])


def wait_active(compute: Endpoint, server_id: str, seconds: float = 300) -> dict[str, Any]:
    """Wait until the server is ACTIVE; CloudError with nova's reason when it fails."""
    deadline = time.monotonic() + seconds
    while True:
        server: dict[str, Any] = compute.get(f"/servers/{server_id}")["server"]
        if server["status"] == "ACTIVE":
            return server
        if server["status"] == "ERROR":
            reason = server.get("fault", {}).get("message", "no reason given")
            raise CloudError(
                f"the server {server['name']} went into state ERROR: {reason}.",
                remedy="quickstart logs nova-compute; delete the server to have 'up' try again: "
                       f"openstack server delete {server['id']}")
        if time.monotonic() > deadline:
            raise CloudError(
                f"the server {server['name']} is still {server['status']} after {seconds:.0f} s.",
                remedy="quickstart logs nova-compute")
        time.sleep(0.5)


def floating_ip(cloud: Cloud, server: dict[str, Any]) -> str:
    """A floating IP of the server, given to it if it has none."""
    network = Rest.login(cloud, "demo").service("network")
    port = network.get(f"/ports?device_id={server['id']}")["ports"][0]
    there = network.get(f"/floatingips?port_id={port['id']}")["floatingips"]
    if there:
        return str(there[0]["floating_ip_address"])
    external = network.get(f"/networks?name={tenancy.EXTERNAL_NETWORK}")["networks"][0]
    made = network.post("/floatingips", {"floatingip": {
        "floating_network_id": external["id"], "port_id": port["id"]}})
    return str(made["floatingip"]["floating_ip_address"])


def ssh_argv(cloud: Cloud, address: str) -> list[str]:
    """ssh into a server of this cloud, asking nothing; its host key is new at every build."""
    return ["ssh", "-i", str(tenancy.key_path(cloud)), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
            "-o", "ConnectTimeout=3", "-o", "BatchMode=yes", f"debian@{address}"]


def over_ssh(cloud: Cloud, address: str, command: str, seconds: float = 180) -> str:
    """Run ``command`` in the server, waiting until it takes the login; returns its output."""
    deadline = time.monotonic() + seconds
    while True:
        result = subprocess.run([*ssh_argv(cloud, address), command], capture_output=True,
                                text=True, stdin=subprocess.DEVNULL, check=False)
        if result.returncode == 0:
            return result.stdout
        if time.monotonic() > deadline:
            raise CloudError(
                f"ssh to the server at {address} did not work within {seconds:.0f} s: "
                f"{result.stderr.strip()}",
                remedy=f"see its console: openstack console log show {SERVER}")
        time.sleep(1)


def show(cloud: Cloud) -> None:
    """Create the first server and print what a newcomer wants to see."""
    started = time.monotonic()
    server = first_server(cloud)
    took = time.monotonic() - started
    addresses = [entry["addr"] for net in server["addresses"].values() for entry in net]
    print(f"\nserver {SERVER}: {server['status']} ({took:.1f} s), address {', '.join(addresses)}")
    if cloud.settings.driver == "fake":
        print("nova's fake driver runs nothing: no console, no ssh")
        return
    address = floating_ip(cloud, server)
    output = over_ssh(cloud, address, COMMAND)
    compute = Rest.login(cloud, "demo").service("compute")
    log = compute.post(f"/servers/{server['id']}/action",
                       {"os-getConsoleOutput": {"length": CONSOLE_LINES}})["output"]
    print(f"floating IP {address}\n\nthe end of its console log:")
    print("\n".join(f"  | {shorten(line, 96)}" for line in log.splitlines()[-CONSOLE_LINES:]))
    print(f"\n$ {' '.join(ssh_argv(cloud, address)[:3])} debian@{address} '{COMMAND}'")
    print("\n".join(f"  | {line}" for line in output.splitlines()))


def next_steps(cloud: Cloud, command: str) -> str:
    """What to type next."""
    lines = [
        "", "next:",
        f'  eval "$({command} env)"          # the openstack command, as user demo',
        "  openstack server list",
        f"  openstack server create --image debian --flavor c1.small --network "
        f"{tenancy.TENANT_NETWORK} --key-name {tenancy.KEY_NAME} --wait second",
    ]
    if cloud.has("horizon"):
        lines += [f"  {cloud.url('horizon', '/')}    # Horizon; user demo or admin, password:",
                  f"  {command} env admin | grep PASSWORD"]
    lines += [
        f"  {command} status | logs SERVICE | down | up",
        f"  {command} destroy                    # remove all of it",
    ]
    return "\n".join(lines)
