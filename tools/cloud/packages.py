# SPDX-License-Identifier: Apache-2.0
"""Debian packages: installed without starting any service of theirs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud.context import Cloud
from cloud.errors import CloudError
from cloud.run import run

POLICY = Path("/usr/sbin/policy-rc.d")
# What dpkg-style maintainer scripts take as "do not start services" (invoke-rc.d(8)).
POLICY_TEXT = "#!/bin/sh\nexit 101\n"

EARLY = ("python3-venv",)
BASE = (
    "mariadb-server", "rabbitmq-server", "memcached", "ovn-central", "ovn-host",
    "openvswitch-switch", "haproxy", "conntrack", "ethtool", "iproute2", "nftables",
    "iptables", "openssh-client", "busybox-static",
)
DAEMON = ("liblxc1", "liblxc-common", "lxcfs", "dnsmasq-base", "squashfs-tools", "uidmap",
          "btrfs-progs", "xz-utils")
# A compiler: the tiny image has one program of its own.
IMAGES = ("mmdebstrap", "debian-archive-keyring", "xz-utils", "gcc", "libc6-dev")
CINDER = ("qemu-utils",)
UNITS = ("mariadb", "rabbitmq-server", "epmd.socket", "epmd.service", "memcached", "ovn-central",
         "ovn-host", "openvswitch-switch", "haproxy", "dnsmasq", "lxcfs", "lxd")


def wanted(cloud: Cloud) -> list[str]:
    """The packages that this cloud's options ask for."""
    names = [*BASE]
    if cloud.settings.driver == "lxd":
        names += [*DAEMON, *IMAGES]
        if cloud.settings.lxd == "real":
            names.append("lxd")
    if cloud.has("cinder"):
        names += CINDER
    return list(dict.fromkeys(names))


def missing(names: list[str]) -> list[str]:
    """Those of ``names`` that dpkg does not know as installed."""
    result = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names],
        capture_output=True, text=True, check=False,
    )
    installed = {
        line.split()[0] for line in result.stdout.splitlines() if line.endswith(" installed")
    }
    return [name for name in names if name not in installed]


def install(cloud: Cloud, names: list[str]) -> bool:
    """Install what is missing of ``names``; returns False when nothing was.

    Services of the new packages are neither started now nor at the next boot: the cloud runs
    its own instances, and the machine stays what it was.  Packages that were there before are
    not touched.
    """
    needed = missing(names)
    if not needed:
        return False
    if shutil.which("apt-get") is None:
        raise CloudError(
            f"this machine has no apt-get, and these programs are missing: {' '.join(needed)}.",
            remedy="use Debian 12, or install them by hand",
        )
    log = cloud.log("step-packages")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    with one_apt_at_a_time(cloud), services_stay_down():
        lock = ("-o", "DPkg::Lock::Timeout=300")
        remedy = "see whether 'apt-get update' works by hand, then run 'quickstart up' again"
        run(("apt-get", *lock, "update", "-q"), log=log, env=environment, remedy=remedy)
        run(("apt-get", *lock, "install", "-q", "-y", "--no-install-recommends", *needed),
            log=log, env=environment, remedy=remedy)
    keep_from_booting(cloud, needed)
    cloud.settings.installed_packages += needed
    cloud.settings.save(cloud.layout)
    return True


@contextmanager
def one_apt_at_a_time(cloud: Cloud) -> Iterator[None]:
    """Two steps of this cloud may want packages at the same time."""
    with (cloud.layout.run / "apt.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def services_stay_down() -> Iterator[None]:
    """While it lasts, package scripts start no services; a policy that exists is respected."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(POLICY_TEXT)
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()


def keep_from_booting(cloud: Cloud, installed: list[str]) -> None:
    """Disable the units that came with packages installed just now."""
    if not os.path.isdir("/run/systemd/system"):
        return
    for unit in UNITS:
        owner = unit.partition(".")[0].removesuffix("-server")
        if any(name.startswith(owner) for name in installed):
            subprocess.run(["systemctl", "disable", "--quiet", unit], check=False,
                           capture_output=True)
