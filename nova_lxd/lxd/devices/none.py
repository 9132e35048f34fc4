# SPDX-License-Identifier: Apache-2.0
"""none: hides a device of a profile from one instance."""

from __future__ import annotations

from nova_lxd.lxd.devices.interface import Device, RunConfig
from nova_lxd.lxd.schema.configkeys import KeyTable


class NoDevice(Device):
    """LXD's device type "none"."""

    keys = KeyTable("none device", [])

    def start(self) -> RunConfig:
        return RunConfig()
