# SPDX-License-Identifier: Apache-2.0
"""The table of storage drivers, and which of them this host can serve."""

from __future__ import annotations

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.storage.drivers.btrfs import Btrfs
from nova_lxd.lxd.storage.drivers.dir import Dir
from nova_lxd.lxd.storage.drivers.interface import Driver, Info

DRIVERS: dict[str, type[Driver]] = {
    "btrfs": Btrfs,
    "dir": Dir,
}


def supported() -> list[Info]:
    """The drivers that work on this host, in the order of the table."""
    found = (driver.probe() for driver in DRIVERS.values())
    return [info for info in found if info is not None]


def driver_class(name: str) -> type[Driver]:
    """The class of a driver that works on this host.

    :raises BadRequest: no such driver, or its tools are not installed.
    """
    driver = DRIVERS.get(name)
    if driver is None:
        raise BadRequest(
            f"Unknown storage driver {name[:64]!r}: this server has {', '.join(DRIVERS)}"
        )
    if driver.probe() is None:
        raise BadRequest(
            f"Storage driver {name} does not work on this host: install its tools or use another"
        )
    return driver
