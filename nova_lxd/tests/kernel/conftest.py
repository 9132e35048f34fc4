# SPDX-License-Identifier: Apache-2.0
"""Tests here need a machine of their own: they install services and reboot."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from nova_lxd.tests.functional.daemon import REPOSITORY
from nova_lxd.tests.kernel.host import SERVICES, lxc, run

BRIDGE = "lxdbr0"
COMMAND = Path("/usr/local/bin/nova-lxd")
# In the way that pip installs the command, but out of the checkout.
_COMMAND_TEXT = f"""\
#!/bin/sh
export PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1
exec {sys.executable} -m nova_lxd.lxd.cli "$@"
"""


class Launch(Protocol):
    """Creates a guest for one test; the name comes back."""

    def __call__(self, *args: str, start: bool = True, name: str | None = None) -> str: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "NOVA_LXD_MACHINE" in os.environ:
        return
    skip = pytest.mark.skip(
        reason="this changes the whole host: tools/kernel/run boots one for it"
    )
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def installed() -> None:
    """The command and its units, as the manual says; started."""
    COMMAND.write_text(_COMMAND_TEXT, encoding="utf-8")
    COMMAND.chmod(0o755)
    run("groupadd", "--system", "--force", "lxd")
    for name in SERVICES:
        unit = Path("/etc/systemd/system", name)
        unit.write_bytes((REPOSITORY / "etc/systemd" / name).read_bytes())
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", *SERVICES)


@pytest.fixture(scope="session")
def service(installed: None) -> None:
    """The service, set up by ``init`` and with an image.

    User Mode Linux has no nftables for IP: the bridge is made before, without rules.
    """
    without_rules = ("ipv4.nat=false", "ipv4.firewall=false", "ipv6.address=none")
    lxc("network", "create", BRIDGE, "ipv4.address=10.79.0.1/24", *without_rules)
    run(COMMAND, "init", "--auto")
    lxc("profile", "device", "add", "default", "eth0", "nic", f"network={BRIDGE}", "name=eth0")
    lxc("image", "import", *os.environ["NOVA_LXD_IMAGE"].split(), "--alias", "busybox")


_counter = itertools.count(1)


@pytest.fixture
def launch(service: None) -> Iterator[Launch]:
    """Launch guests; all are deleted at the end of the test."""
    with ExitStack() as undo:

        def one(*args: str, start: bool = True, name: str | None = None) -> str:
            name = name or f"t{next(_counter)}"
            undo.callback(lambda: lxc("delete", "-f", name, check=False))
            lxc("launch" if start else "init", "busybox", name, *args)
            return name

        yield one
