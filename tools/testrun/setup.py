# SPDX-License-Identifier: Apache-2.0
"""What the tests need of the machine: Debian packages and one Python environment."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cloud import packages

REPOSITORY = Path(__file__).resolve().parents[2]
DEBIAN = (
    *packages.BASE,
    *packages.DAEMON,
    *packages.IMAGES,
    *packages.CINDER,
    "lxc",
    "lxd",
    "lxd-client",
    "user-mode-linux",
    "xfsprogs",
    "zstd",
    "attr",
    "acl",
    "rsync",
    "socat",
    "jq",
    "iputils-ping",
    "isc-dhcp-client",
    "shellcheck",
    "fuse2fs",
    "curl",
    "e2fsprogs",
    "fdisk",
    "chromium",
    "chromium-driver",
    "kmod",
)
OPENSTACK = (
    "keystone",
    "glance",
    "openstack-placement",
    "nova",
    "neutron",
    "cinder",
    "horizon",
    "tempest",
    "python-openstackclient",
    "pymysql",
    "python-memcached",
    "pyroute2",
    "pyuwsgi",
    "osc-placement",
)


class SetupError(Exception):
    """The machine could not be prepared; the message says what to do."""


def packages_installed(log: Path) -> str:
    """Install the missing Debian packages; says what was done."""
    needed = packages.missing(list(DEBIAN))
    if importlib.util.find_spec("ensurepip") is None:
        needed += packages.missing(["python3-venv"])
    if not needed:
        return "all there"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(
            f"these packages are missing: {' '.join(needed)}; install them, or run as root on "
            "Debian 12"
        )
    with log.open("ab") as stream, packages.services_stay_down():
        lock = ("-o", "DPkg::Lock::Timeout=300")
        for words in (("update", "-q"), ("install", "-qy", "--no-install-recommends", *needed)):
            done = subprocess.run(
                ["apt-get", *lock, *words],
                stdout=stream,
                stderr=stream,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                check=False,
            )
            if done.returncode:
                raise SetupError(f"'apt-get {words[0]}' failed; see {log}")
    return f"installed {len(needed)}"


def environment(venv: Path, log: Path) -> str:
    """Make or update the Python environment; says what was done."""
    files = ("constraints.txt", "requirements.txt", "test-requirements.txt", "setup.cfg")
    text = b"".join((REPOSITORY / name).read_bytes() for name in files)
    wanted = hashlib.sha256(text + str(REPOSITORY).encode()).hexdigest()
    stamp = venv / "nova-lxd-tests.stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return "up to date"
    if not (venv / "bin/pip").exists():
        shutil.rmtree(venv, ignore_errors=True)
        _run((sys.executable, "-m", "venv", venv), log)
    pip = (
        venv / "bin/python",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-input",
        "--disable-pip-version-check",
        "-c",
        REPOSITORY / "constraints.txt",
    )
    _run((*pip, "-U", "pip", "wheel", "setuptools", "pbr"), log)
    requirements = ("-r", REPOSITORY / "test-requirements.txt")
    _run((*pip, *OPENSTACK, *requirements), log)
    _run((*pip, "--no-build-isolation", "-e", REPOSITORY), log)
    _let_nova_tests_find_api_paste(venv)
    stamp.write_text(wanted)
    return "made"


def _let_nova_tests_find_api_paste(venv: Path) -> None:
    """Nova's wheel puts api-paste.ini into the environment's etc/; its tests look beside nova/."""
    for packages_directory in venv.glob("lib/python3*/site-packages"):
        link = packages_directory / "etc"
        if not link.exists():
            link.symlink_to("../../../etc")


def _run(command: tuple[str | Path, ...], log: Path) -> None:
    with log.open("ab") as stream:
        done = subprocess.run(
            [str(word) for word in command],
            stdout=stream,
            stderr=stream,
            cwd=REPOSITORY,
            check=False,
        )
    if done.returncode:
        raise SetupError(f"'{' '.join(str(w) for w in command[:6])} …' failed; see {log}")
