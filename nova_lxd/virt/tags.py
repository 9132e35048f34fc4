# SPDX-License-Identifier: Apache-2.0
"""Device role tags, for the metadata service and the config drive."""

from __future__ import annotations

from typing import Any

from nova import objects


def device_metadata(context: Any, instance: Any) -> objects.InstanceDeviceMetadata | None:
    """Return the tagged ports of an instance; None when it has none.

    A container's nic sits on no bus that the guest could look at: the MAC tells which it is.
    """
    ports = objects.VirtualInterfaceList.get_by_instance_uuid(context, instance.uuid)
    devices = [
        objects.NetworkInterfaceMetadata(mac=_mac(port), tags=[port.tag])
        for port in ports
        if port.tag
    ]
    return objects.InstanceDeviceMetadata(devices=devices) if devices else None


def without(
    metadata: objects.InstanceDeviceMetadata | None, mac: str
) -> objects.InstanceDeviceMetadata | None:
    """Return the metadata without the port that was detached."""
    kept = [device for device in metadata.devices if device.mac != mac] if metadata else []
    return objects.InstanceDeviceMetadata(devices=kept) if kept else None


def _mac(port: Any) -> str:
    # the record's address is "<mac>/<port id>" where Neutron is used
    return str(port.address).partition("/")[0]
