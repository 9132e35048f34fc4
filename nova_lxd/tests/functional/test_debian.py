# SPDX-License-Identifier: Apache-2.0
"""A whole Debian with systemd, sshd and cloud-init as a guest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_lxd.tests.functional.conftest import build_image, leftovers, remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def debian(daemon: Daemon) -> Iterator[Daemon]:
    """The module's daemon with the Debian image in it."""
    split = build_image("debian", "metadata.tar.xz", "rootfs.squashfs")
    daemon.lxc("image", "import", *map(str, split), "--alias", "debian")
    yield daemon


@pytest.fixture
def key(debian: Daemon) -> str:
    """A fresh ssh key; the path of its private half."""
    path = debian.home / "id"
    if not path.exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(argv, check=True)
    return str(path)


def booted(daemon: Daemon, name: str) -> str:
    """Wait until systemd is done; its verdict."""

    def state() -> str:
        done = daemon.lxc("exec", name, "--", "systemctl", "is-system-running", check=False)
        verdict = done.stdout.strip()
        return verdict if verdict in ("running", "degraded") else ""

    return str(wait_for(state, f"{name} booted", timeout=120, interval=0.5))


def ssh(daemon: Daemon, key: str, address: str, command: str) -> str:
    argv = [
        "ssh", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", f"debian@{address}", command,
    ]  # fmt: skip
    return daemon.inside(*argv).stdout.strip()


def test_whole_life(debian: Daemon, key: str) -> None:
    public = Path(f"{key}.pub").read_text(encoding="ascii").strip()
    user_data = f"#cloud-config\nssh_authorized_keys: ['{public}']\n"
    debian.lxc(
        "launch", "debian", "deb", "-c", f"cloud-init.user-data={user_data}",
        "-c", "limits.memory=512MiB", "-c", "limits.cpu=1",
    )  # fmt: skip
    try:
        assert booted(debian, "deb") in ("running", "degraded")
        failed = debian.exec(
            "deb", "systemctl", "list-units", "--failed", "--plain", "--no-legend"
        )
        assert "ssh" not in failed and "networkd" not in failed and "cloud" not in failed
        address = debian.ipv4("deb", timeout=60)
        assert debian.exec("deb", "hostname") == "deb"

        # Names resolve, both ways round.
        assert "10.77.0.1" in debian.exec("deb", "getent", "hosts", "_gateway.lxd")
        debian.lxc("launch", "busybox", "other")
        debian.ipv4("other")
        assert debian.ipv4("other") in debian.exec("deb", "getent", "hosts", "other.lxd")
        assert f"Address: {address}" in debian.exec("other", "nslookup", "deb.lxd")

        # Reached from the host, with the key that cloud-init put there.
        debian.inside("busybox", "ping", "-c1", "-W5", address)
        debian.lxc("exec", "deb", "--", "cloud-init", "status", "--wait", timeout=120)
        assert ssh(debian, key, address, "hostname; sudo id -u").split() == ["deb", "0"]

        # The limits are what the guest sees of its own control group.
        assert debian.exec("deb", "nproc") == "1"
        assert debian.memory_limit("deb") == 512 << 20

        # A restart from outside.
        boot = debian.exec("deb", "cat", "/proc/1/stat").split()[21]
        debian.lxc("restart", "deb", timeout=180)
        booted(debian, "deb")
        assert debian.exec("deb", "cat", "/proc/1/stat").split()[21] != boot
        assert debian.ipv4("deb", timeout=60) == address
        assert ssh(debian, key, address, "hostname") == "deb"

        # A reboot from inside.
        pid = debian.get("/1.0/instances/deb/state")["pid"]
        debian.lxc("exec", "deb", "--", "systemctl", "reboot", check=False)

        def rebooted() -> bool:
            state = debian.get("/1.0/instances/deb/state")
            return state["status"] == "Running" and state["pid"] not in (0, pid)

        wait_for(rebooted, "the reboot", timeout=90)
        booted(debian, "deb")
        assert debian.ipv4("deb", timeout=60) == address

        # The daemon restarts in between; the guest does not notice.
        pid = debian.get("/1.0/instances/deb/state")["pid"]
        debian.restart()
        assert debian.get("/1.0/instances/deb/state")["pid"] == pid
        assert ssh(debian, key, address, "hostname") == "deb"

        # A power-off from inside.
        debian.lxc("exec", "deb", "--", "systemctl", "poweroff", check=False)
        debian.wait_status("deb", "Stopped", timeout=90)
        # Real LXD says "busy" for a moment after it says "Stopped".
        wait_for(lambda: debian.lxc("start", "deb", check=False).returncode == 0, "a new start")
        booted(debian, "deb")
        debian.lxc("stop", "deb", timeout=180)
        assert debian.status("deb") == "Stopped"
    finally:
        remove(debian, "deb")
        remove(debian, "other")
    assert leftovers(debian) == []


def test_cloud_init_network_config_and_vendor_data(debian: Daemon) -> None:
    network = (
        "version: 2\nethernets:\n  eth0:\n    addresses: [10.77.0.99/24]\n"
        "    routes: [{to: 0.0.0.0/0, via: 10.77.0.1}]\n"
        "    nameservers: {addresses: [10.77.0.1]}\n"
    )
    vendor = "#cloud-config\nruncmd: [[touch, /run/vendor-was-here]]\n"
    debian.lxc(
        "launch", "debian", "cloudy", "-c", f"cloud-init.network-config={network}",
        "-c", f"cloud-init.vendor-data={vendor}",
    )  # fmt: skip
    try:
        debian.wait_status("cloudy", "Running")
        assert debian.ipv4("cloudy", timeout=60) == "10.77.0.99"
        debian.lxc("exec", "cloudy", "--", "cloud-init", "status", "--wait", timeout=120)
        assert debian.exec("cloudy", "ls", "/run/vendor-was-here") == "/run/vendor-was-here"
    finally:
        remove(debian, "cloudy")


def test_nesting(own: Daemon) -> None:
    """With security.nesting a guest can make user namespaces and mounts of its own."""
    furnished = build_image("debian", "metadata.tar.xz", "rootfs.squashfs")
    own.lxc("image", "import", *map(str, furnished), "--alias", "debian")
    own.lxc("launch", "debian", "nest", "-c", "security.nesting=true")
    booted(own, "nest")
    inner = "unshare -Urmpf --mount-proc sh -c 'id -u; mount -t tmpfs none /mnt && echo mounted'"
    assert own.exec("nest", "sh", "-c", inner).split() == ["0", "mounted"]
