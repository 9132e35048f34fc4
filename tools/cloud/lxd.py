# SPDX-License-Identifier: Apache-2.0
"""The container daemon of each compute host: the bundled one, or Debian's LXD."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from cloud import ovn
from cloud.context import Cloud, Section
from cloud.controller import bring_up
from cloud.errors import CloudError
from cloud.services import Probe, Service
from cloud.settings import HostRecord
from cloud.steps import Step

POOL = "default"
# Of the disk space that is free, how much a pool in a file of its own may grow to.  LXD's own
# choice, a fifth and at most 30 GiB, holds no more than a handful of servers.
POOL_SHARE = 0.8
# Clones of an image share its blocks, so that a pool holds more disks than their sum says.
SHARED_BLOCKS_RATIO = 4.0
# Both LXD and the bundled daemon look for lxcfs here and nowhere else.
LXCFS = Path("/var/lib/lxcfs")


def home(cloud: Cloud, host: HostRecord) -> Path:
    """LXD_DIR of a host's daemon; short, because unix sockets live below it."""
    return cloud.data("lxd" if host is cloud.first_host else f"lxd-{host.name}")


def socket_path(cloud: Cloud, host: HostRecord) -> Path:
    return home(cloud, host) / "unix.socket"


def driver_options(cloud: Cloud, host: HostRecord) -> Section:
    """The [lxd] section of nova-compute's configuration."""
    return {"endpoint": str(socket_path(cloud, host)), "pool": POOL}


def service(cloud: Cloud, host: HostRecord) -> Service:
    name = cloud.on(host, "lxd")
    directory = home(cloud, host)
    directory.chmod(0o711)
    if cloud.settings.lxd == "real":
        argv = (shutil.which("lxd") or "/usr/bin/lxd", "--group", "root")
    else:
        argv = (cloud.bin("nova-lxd"), "daemon")
    return Service(
        name=name, argv=argv, log=str(cloud.log(name)), env={"LXD_DIR": str(directory)},
        probe=Probe("unix", str(socket_path(cloud, host))), enter=cloud.enter(host),
        kill="process", stop_seconds=60,
    )


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("lxd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(path: Path, method: str, target: str, body: Any = None, timeout: float = 120) -> Any:
    """One LXD API request; an operation is waited for.  Returns the answer's metadata.

    Raises CloudError when LXD refuses or its operation fails; OSError when it does not answer.
    """
    connection = UnixConnection(path, timeout)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, target, data, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if answer["type"] == "async":
        answer = {"type": "sync", "metadata": request(
            path, "GET", f"{answer['operation']}/wait", timeout=timeout)}
        if answer["metadata"]["status_code"] != 200:
            answer = {"type": "error", "error": answer["metadata"]["err"]}
    if answer["type"] == "error":
        raise CloudError(f"LXD refused {method} {target}: {answer['error']}.",
                         remedy="see its log: quickstart logs lxd")
    return answer["metadata"]


def create_pool(cloud: Cloud, host: HostRecord) -> bool:
    """The storage pool of the instances."""
    path = socket_path(cloud, host)
    wait_ready(path)
    if f"/1.0/storage-pools/{POOL}" in request(path, "GET", "/1.0/storage-pools"):
        return False
    request(path, "POST", "/1.0/storage-pools",
            {"name": POOL, "driver": cloud.settings.pool, "config": pool_config(cloud)})
    return True


def pool_config(cloud: Cloud) -> dict[str, str]:
    """A pool that is no directory gets a sparse file, which takes room as it is filled."""
    if cloud.settings.pool == "dir":
        return {}
    gigabytes = shutil.disk_usage(cloud.layout.state).free * POOL_SHARE / 2**30
    return {"size": f"{int(gigabytes)}GiB"}


def disk_ratio(cloud: Cloud) -> float:
    """How many times over Nova may hand out the room of the pool."""
    return 1.0 if cloud.settings.pool == "dir" else SHARED_BLOCKS_RATIO


def wait_ready(path: Path, seconds: float = 60) -> None:
    """Wait until the daemon has finished its start-up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            request(path, "GET", "/internal/ready", timeout=5)
            return
        except (OSError, http.client.HTTPException, CloudError) as error:
            if time.monotonic() > deadline:
                raise CloudError(f"the container daemon is not ready after {seconds:.0f} s: "
                                 f"{error}", remedy="see its log: quickstart logs lxd") from error
        time.sleep(0.2)


def instances(path: Path) -> list[dict[str, Any]]:
    """Every instance of every project, with its state."""
    listed: list[dict[str, Any]] = request(
        path, "GET", "/1.0/instances?recursion=1&all-projects=true")
    return listed


def stop_instances(cloud: Cloud, host: HostRecord) -> int:
    """Stop every running instance; they keep their disks.  Returns how many there were."""
    path = socket_path(cloud, host)
    if not Probe("unix", str(path)).answers():
        return 0
    running = [entry for entry in instances(path) if entry["status"] != "Stopped"]
    for entry in running:
        target = f"/1.0/instances/{entry['name']}/state?project={entry['project']}"
        request(path, "PUT", target, {"action": "stop", "force": True, "timeout": 30})
    return len(running)


def delete_all(cloud: Cloud, host: HostRecord) -> None:
    """Delete instances, images and the pool, so that no mount or subvolume stays behind."""
    path = socket_path(cloud, host)
    if not Probe("unix", str(path)).answers():
        return
    stop_instances(cloud, host)
    for entry in instances(path):
        request(path, "DELETE", f"/1.0/instances/{entry['name']}?project={entry['project']}")
    for project in request(path, "GET", "/1.0/projects?recursion=1"):
        query = f"project={project['name']}"
        for image in request(path, "GET", f"/1.0/images?{query}"):
            request(path, "DELETE", f"{image}?{query}")


def steps_for(cloud: Cloud, host: HostRecord) -> list[Step]:
    name = cloud.on(host, "lxd")
    return [
        cloud.start(name, lambda: service(cloud, host), "python/driver",
                    "start lxcfs", *ovn.host_needs(host)),
        Step(cloud.on(host, "lxd/pool"), lambda: create_pool(cloud, host),
             needs=(f"start {name}",)),
    ]


def lxcfs(cloud: Cloud) -> bool:
    """Run lxcfs, which shows guests their own memory and CPUs, unless the machine runs one."""
    ours = cloud.controller.condition("lxcfs")
    if ours.state == "stopped" and (LXCFS / "proc").is_dir():
        return False
    program = shutil.which("lxcfs") or "/usr/bin/lxcfs"
    return bring_up(cloud.controller, Service(
        name="lxcfs", argv=(program, str(LXCFS)), log=str(cloud.log("lxcfs")),
        probe=Probe("file", str(LXCFS / "proc"))))


def steps(cloud: Cloud) -> list[Step]:
    if cloud.settings.driver != "lxd":
        return []
    return [
        Step("start lxcfs", lambda: lxcfs(cloud), needs=("packages",)),
        *(step for host in cloud.settings.hosts for step in steps_for(cloud, host)),
    ]
