# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the cloud tests.

The cloud is the one in $NOVA_LXD_CLOUD (default: where quickstart puts it); start it with
``./quickstart up``.  Without ``--full``, tests marked ``full`` are left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from cloud.layout import DEFAULT_STATE

from nova_lxd.tests.cloud.world import Guest, World


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the whole, not the CI share")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: left out of the fixed share that CI runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only --full runs; every skip names its reason."""
    for item in items:
        item.add_marker(pytest.mark.timeout(600))
        if item.get_closest_marker("full") and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="not in CI's fixed share; --full runs it"))


@pytest.fixture(scope="session")
def state() -> Path:
    """The state directory of the running cloud."""
    path = Path(os.environ.get("NOVA_LXD_CLOUD") or DEFAULT_STATE)
    if not (path / "clouds.yaml").exists():
        pytest.fail(f"no cloud in {path}: start one with ./quickstart up", pytrace=False)
    return path


@pytest.fixture
def world(state: Path) -> Iterator[World]:
    """User demo; what the test makes is deleted after it."""
    user = World(state)
    try:
        yield user
    finally:
        user.close()


@pytest.fixture
def admin(state: Path) -> Iterator[World]:
    """User admin in project admin; what the test makes is deleted after it."""
    user = World(state, "admin")
    try:
        yield user
    finally:
        user.close()


@pytest.fixture(scope="module")
def guest(state: Path) -> Iterator[Guest]:
    """One reachable server for the tests of a module that leave it as they found it."""
    user = World(state)
    try:
        server, address = user.boot_reachable("shared-guest")
        yield user, server, address
    finally:
        user.close()
