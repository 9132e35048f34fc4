# SPDX-License-Identifier: Apache-2.0
"""security.nesting: another copy of the daemon, or Docker, inside a guest.

The guest is small and has the host's programs: /usr, this checkout and its Python are mounted
read-only.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.tests.functional.conftest import Launch, build_image
from nova_lxd.tests.functional.daemon import REPOSITORY, Daemon
from nova_lxd.tests.functional.sandbox import wait_for

GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What an init such as systemd does: mount the control groups that the guest was given.
MOUNT_CGROUPS = """
ln -s usr/lib /lib; ln -s usr/lib64 /lib64
if [ "$(cut -d: -f2 /proc/self/cgroup)" = "" ]; then
    exec mount -t cgroup2 none /sys/fs/cgroup
fi
mount -t tmpfs -o mode=755 none /sys/fs/cgroup
while IFS=: read -r _ names _; do
    case "$names" in
    "") kind=cgroup2 options=rw directory=unified;;
    name=*) kind=cgroup options=none,$names directory=${names#name=};;
    *) kind=cgroup options=$names directory=$names;;
    esac
    mkdir "/sys/fs/cgroup/$directory"
    mount -t $kind -o "$options" none "/sys/fs/cgroup/$directory"
done < /proc/self/cgroup
"""


class Guest:
    """A guest with the host's programs."""

    def __init__(self, daemon: Daemon, name: str, programs: tuple[Path, ...]) -> None:
        self._daemon = daemon
        self.name = name
        self.path = GUEST_PATH
        self.libraries = ""
        for number, path in enumerate(dict.fromkeys(programs)):
            daemon.lxc(
                "config", "device", "add", name, f"host{number}", "disk", f"source={path}",
                f"path={path}", "readonly=true",
            )  # fmt: skip
        daemon.lxc("start", name)
        self.run("sh", "-ec", MOUNT_CGROUPS)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the host's inside."""
        environment = {
            "PATH": self.path, "LD_LIBRARY_PATH": self.libraries, "HOME": "/root",
            "LXD_DIR": "/var/lib/lxd", "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8",
        }  # fmt: skip
        options = [f"--env={key}={value}" for key, value in environment.items()]
        return self._daemon.lxc("exec", self.name, *options, "--", *argv, check=check)

    def background(self, log: str, *argv: str) -> None:
        """Start a program inside that stays."""
        self.run("sh", "-c", f"setsid {shlex.join(argv)} >{log} 2>&1 </dev/null &")

    def log(self, path: str) -> str:
        return self.run("cat", path, check=False).stdout


def inner_daemon(daemon: Daemon, name: str) -> Guest:
    """A guest in which another copy of the bundled daemon is set up and has an image."""
    python = (Path(sys.base_prefix), Path(sys.prefix))
    guest = Guest(daemon, name, (Path("/usr"), *python, REPOSITORY))
    cli = (sys.executable, "-m", "nova_lxd.lxd.cli")
    guest.background("/tmp/daemon.log", *cli, "daemon", "--verbose")
    ready = guest.run(*cli, "waitready", "--timeout=90", check=False)
    assert ready.returncode == 0, guest.log("/tmp/daemon.log")
    guest.run(*cli, "init", "--auto")
    for file in build_image("busybox", "metadata.tar.xz", "rootfs.squashfs"):
        daemon.lxc("file", "push", str(file), f"{name}/root/{file.name}")
    guest.run("lxc", "image", "import", "/root/metadata.tar.xz", "/root/rootfs.squashfs",
              "--alias=busybox")  # fmt: skip
    return guest


def shown(guest: Guest, name: str) -> Any:
    [found] = json.loads(guest.run("lxc", "list", name, "--format=json").stdout)
    return found


def test_another_daemon_inside(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "security.nesting=true", start=False)
    guest = inner_daemon(daemon, name)
    guest.run("lxc", "launch", "busybox", "inner", "-c", "security.privileged=true",
              "-c", "limits.memory=64MiB")  # fmt: skip
    assert guest.run("lxc", "exec", "inner", "--", "hostname").stdout == "inner\n"
    assert shown(guest, "inner")["state"]["memory"]["usage"] > 0

    def address() -> str:
        nics = shown(guest, "inner")["state"]["network"]
        found = [a["address"] for a in nics["eth0"]["addresses"] if a["family"] == "inet"]
        return found[0] if found else ""

    guest.run("ping", "-c1", "-W5", wait_for(address, "an address of the inner guest"))
    # The root of both is the same unprivileged one: of the outer guest's range of ids.
    rows = guest.run("lxc", "exec", "inner", "--", "cat", "/proc/self/uid_map").stdout.split()
    assert rows[0] == "0" and int(rows[1]) >= 65536
    guest.run("lxc", "snapshot", "inner", "s0")
    guest.run("lxc", "stop", "--force", "inner")
    guest.run("lxc", "restore", "inner", "s0")
    guest.run("lxc", "start", "inner")
    assert shown(guest, "inner")["status"] == "Running"
    guest.run("lxc", "delete", "--force", "inner")


def test_what_cannot_be_idmapped_inside_is_said(daemon: Daemon, launch: Launch) -> None:
    guest = inner_daemon(daemon, launch("-c", "security.nesting=true", start=False))
    refused = guest.run("lxc", "launch", "busybox", "inner", check=False)
    assert refused.returncode != 0 and "set security.privileged" in refused.stderr
    assert shown(guest, "inner")["status"] == "Stopped"


def docker_programs() -> Path:
    """The directory that has usr/sbin/dockerd; skips without one."""
    top = Path(os.environ.get("NOVA_LXD_DOCKER", "/"))
    if not (top / "usr/sbin/dockerd").exists():
        pytest.skip(
            "Docker is not there: install docker.io, or unpack it with containerd, runc and "
            "iptables below a directory named by NOVA_LXD_DOCKER"
        )
    return top


def test_docker_inside(daemon: Daemon, launch: Launch, tmp_path: Path) -> None:
    top = docker_programs()
    name = launch("-c", "security.nesting=true", start=False)
    guest = Guest(daemon, name, (Path("/usr"), *([top] if top != Path("/") else [])))
    guest.path = f"{top}/usr/sbin:{top}/usr/bin:{GUEST_PATH}"
    guest.libraries = f"{top}/usr/lib/{os.uname().machine}-linux-gnu"
    guest.background("/tmp/dockerd.log", "dockerd", "--iptables=false", "--ip-masq=false",
                     "--bridge=none")  # fmt: skip
    wait_for(lambda: guest.run("docker", "info", check=False).returncode == 0, "dockerd")
    busybox = tmp_path / "image.tar"
    with tarfile.open(busybox, "w") as archive:
        archive.add(shutil.which("busybox") or "", "bin/sh")
    daemon.lxc("file", "push", str(busybox), f"{name}/root/image.tar")
    guest.run("docker", "import", "/root/image.tar", "small")
    done = guest.run("docker", "run", "--rm", "--network=none", "small", "/bin/sh", "-c",
                     "echo from $$ in docker", check=False)  # fmt: skip
    assert done.stdout == "from 1 in docker\n", done.stderr + guest.log("/tmp/dockerd.log")
