# SPDX-License-Identifier: Apache-2.0
"""A daemon per test module, and guests that are gone when their test ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from nova_lxd.tests.functional.daemon import REPOSITORY, Daemon, sweep
from nova_lxd.tests.functional.sandbox import wait_for

BRIDGE = "lxdbr0"
SUBNET = "10.77.0"


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends a run as Ctrl-C does: fixtures still take their daemons down."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Launch(Protocol):
    """Creates a guest for one test; the name comes back."""

    def __call__(
        self, *args: str, image: str = "busybox", start: bool = True, name: str | None = None
    ) -> str: ...


def build_image(kind: str, *artifacts: str) -> list[Path]:
    """Paths of an image's artifacts, built by tools/images/build unless they are kept already."""
    argv = [str(REPOSITORY / "tools/images/build"), kind]
    for artifact in artifacts:
        argv += ["--artifact", artifact]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.split()]


def furnish(daemon: Daemon) -> None:
    """What `lxd init` would do: a pool, a bridge, a default profile that uses both; an image."""
    daemon.lxc("storage", "create", "default", "dir")
    daemon.lxc("network", "create", BRIDGE, f"ipv4.address={SUBNET}.1/24", "ipv6.address=none")
    for device in (
        ("root", "disk", "path=/", "pool=default"),
        ("eth0", "nic", f"network={BRIDGE}", "name=eth0"),
    ):
        daemon.lxc("profile", "device", "add", "default", *device)
    split = build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
    daemon.lxc("image", "import", *map(str, split), "--alias", "busybox")


def leftovers(daemon: Daemon) -> list[str]:
    """Traces on disk and in the process table of guests that no longer exist."""
    found = []
    patterns = ["containers/*", "snapshots/*", "devices/*", "backups/*/*"]
    if daemon.backend == "bundled":
        # Real LXD keeps the log directory of what it deleted.
        patterns.append("logs/*/")
    for pattern in patterns:
        found += [str(path) for path in daemon.lxd_dir.glob(pattern)]
    for kind in ("containers", "containers-snapshots", "custom", "custom-snapshots"):
        found += [str(path) for path in daemon.lxd_dir.glob(f"storage-pools/*/{kind}/*")]
    expected = (Path("/usr/bin/lxd").name, "dnsmasq", "nova_lxd.lxd", "nova-lxd", "zygote")
    found += [
        line for line in daemon.sandbox.processes() if not any(word in line for word in expected)
    ]
    found += [line for line in daemon.sandbox.processes() if "[lxc monitor]" in line]
    return found


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the back end under test."""
    if os.geteuid() != 0:
        pytest.skip("system containers need root")
    sweep()
    return str(request.config.getoption("--backend"))


@pytest.fixture(scope="module")
def daemon(backend: str) -> Iterator[Daemon]:
    """A furnished daemon that the tests of one module share."""
    with Daemon(backend) as running:
        furnish(running)
        yield running


@pytest.fixture
def bare(backend: str) -> Iterator[Daemon]:
    """A daemon for one test alone, with nothing in it."""
    with Daemon(backend, "bare") as running:
        yield running


@pytest.fixture
def own(backend: str) -> Iterator[Daemon]:
    """A furnished daemon for one test alone."""
    with Daemon(backend, "own") as running:
        furnish(running)
        yield running


_counter = itertools.count(1)


@pytest.fixture
def launch(daemon: Daemon) -> Iterator[Launch]:
    """Launch guests in the module's daemon; all are deleted at the end of the test."""
    with ExitStack() as undo:

        def one(
            *args: str, image: str = "busybox", start: bool = True, name: str | None = None
        ) -> str:
            name = name or f"t{next(_counter)}"
            undo.callback(remove, daemon, name)
            daemon.lxc("launch" if start else "init", image, name, *args)
            return name

        yield one


def remove(daemon: Daemon, name: str, project: str = "default") -> None:
    """Delete an instance, running or not, if it is there."""

    def gone() -> bool:
        # A guest that is just going down by itself is busy for a moment.
        if daemon.api("GET", f"/1.0/instances/{name}?project={project}").status == 404:
            return True
        return daemon.lxc("delete", "-f", name, "--project", project, check=False).returncode == 0

    wait_for(gone, f"deletion of {name}", interval=0.3)
