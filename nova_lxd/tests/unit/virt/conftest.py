# SPDX-License-Identifier: Apache-2.0
"""Unit tests of the driver: no server, no root, no database."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("nova")


@pytest.fixture(scope="session", autouse=True)
def nova_objects() -> None:
    """Register Nova's objects and the driver's options."""
    import nova.conf
    import os_vif
    from nova import objects

    from nova_lxd.virt import conf

    objects.register_all()
    os_vif.initialize()
    conf.register(nova.conf.CONF)
    nova.conf.CONF([], project="nova", default_config_files=[])


@pytest.fixture
def lxd_conf() -> Any:
    """The [lxd] section with its defaults."""
    import nova.conf

    return nova.conf.CONF.lxd
