# SPDX-License-Identifier: Apache-2.0
"""pylxd's own integration tests, from its source distribution, but for clusters."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from nova_lxd.tests.functional.daemon import Daemon

CACHE = Path(os.environ.get("NOVA_LXD_CACHE") or "/var/cache/nova-lxd/images")
MODULES = (
    "client",
    "containers",
    "images",
    "instances",
    "networks",
    "profiles",
    "projects",
    "storage",
)


@pytest.fixture(scope="session")
def source() -> Path:
    """The unpacked source distribution of the pylxd that is installed, kept in the cache."""
    try:
        version = importlib.metadata.version("pylxd")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pylxd is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    unpacked = CACHE / f"pylxd-{version}"
    with (CACHE / ".pylxd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (unpacked / "integration").is_dir():
            argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            argv += ["--no-binary", "pylxd", "--dest", str(CACHE), f"pylxd=={version}"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"pylxd's source cannot be fetched: {done.stderr.strip()[-300:]}")
            with tarfile.open(CACHE / f"pylxd-{version}.tar.gz") as tar:
                tar.extractall(CACHE, filter="data")
    return unpacked


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.timeout(300)
def test_integration(daemon: Daemon, source: Path, module: str) -> None:
    # What its own runner sets up: HTTPS, a trust password, certificates of both sides.
    daemon.lxc("config", "set", "core.https_address", "127.0.0.1:8443")
    daemon.lxc("config", "set", "core.trust_password", "password")
    home = daemon.home / f"pylxd-{module}"
    known = home / ".config/lxc/servercerts"
    known.mkdir(parents=True)
    shutil.copy(daemon.lxd_dir / "server.crt", known / "127.0.0.1.crt")
    bogus = daemon.lxc(
        "remote", "add", "bogus", "127.0.0.1:1", check=False, env={"LXD_CONF": str(known.parent)}
    )
    assert (known.parent / "client.crt").exists(), bogus.stderr
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    argv += [f"--rootdir={source}", str(source / "integration" / f"test_{module}.py")]
    done = daemon.sandbox.run(
        ["env", f"PYTHONPATH={source}", f"LXD_DIR={daemon.lxd_dir}", f"HOME={home}", *argv],
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
