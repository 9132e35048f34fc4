# SPDX-License-Identifier: Apache-2.0
"""Options that all tests share."""

from __future__ import annotations

import os

import pytest

from nova_lxd.tests.functional.daemon import BACKENDS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=BACKENDS,
        default=os.environ.get("NOVA_LXD_TEST_BACKEND", "bundled"),
        help="what the functional tests run against: the bundled daemon or real LXD, the oracle",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: boots a whole Debian; takes tens of seconds")
