# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the rest of the cloud: Glance, Neutron's events, Nova's objects without a DB."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import pathlib
import uuid
from typing import Any

from nova import objects
from nova.network import model
from nova.virt import virtapi


class Glance:
    """An image service in memory with the calls of nova.image.glance.API the driver makes."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.data: dict[str, bytes] = {}
        self.downloads: list[str] = []

    def add(self, data: bytes) -> str:
        """Register an image; return its id."""
        image_id = str(uuid.uuid4())
        self.put(image_id, data)
        return image_id

    def put(self, image_id: str, data: bytes) -> None:
        """Set an image's data."""
        self.data[image_id] = data
        self.images[image_id] = {
            "id": image_id,
            "name": "image",
            "size": len(data),
            "checksum": hashlib.md5(data).hexdigest(),
            "properties": {},
        }

    def get(self, context: Any, image_id: str, **kwargs: Any) -> dict[str, Any]:
        return self.images[image_id]

    def download(
        self, context: Any, image_id: str, dest_path: str, trusted_certs: Any = None, **kw: Any
    ) -> None:
        self.downloads.append(image_id)
        pathlib.Path(dest_path).write_bytes(self.data[image_id])

    def update(
        self, context: Any, image_id: str, metadata: dict[str, Any], data: Any = None, **kw: Any
    ) -> None:
        content = b"".join(iter(lambda: data.read(1 << 20), b"")) if data is not None else b""
        self.put(image_id, content)
        self.images[image_id].update(metadata)


class VirtAPI(virtapi.VirtAPI):
    """Neutron's events arrive at once, unless ``missing`` says that they never will."""

    def __init__(self) -> None:
        self.waited: list[Any] = []
        self.missing = False

    @contextlib.contextmanager
    def wait_for_instance_event(
        self, instance: Any, event_names: Any, *, timeout: int = 300, error_callback: Any = None
    ) -> Any:
        from nova import exception

        yield
        self.waited += list(event_names)
        if self.missing and event_names:
            raise exception.InstanceEventTimeout()


def flavor(**values: Any) -> objects.Flavor:
    """Return a small flavor."""
    defaults = {
        "id": 1, "name": "small", "memory_mb": 128, "vcpus": 1, "root_gb": 1,
        "ephemeral_gb": 0, "swap": 0, "flavorid": "1", "rxtx_factor": 1.0, "extra_specs": {},
    }  # fmt: skip
    return objects.Flavor(**{**defaults, **values})


def instance(image_id: str, number: int = 1, **values: Any) -> objects.Instance:
    """Return an instance that no database knows."""
    the_flavor = values.pop("flavor", None) or flavor()
    defaults: dict[str, Any] = {
        "id": number, "uuid": str(uuid.uuid4()), "user_id": "user", "project_id": "project",
        "image_ref": image_id, "hostname": f"guest-{number}", "display_name": f"guest-{number}",
        "memory_mb": the_flavor.memory_mb, "vcpus": the_flavor.vcpus,
        "root_gb": the_flavor.root_gb, "ephemeral_gb": 0, "flavor": the_flavor,
        "key_data": "ssh-ed25519 AAAA test", "key_name": "test", "user_data": None,
        "config_drive": "", "metadata": {}, "system_metadata": {}, "vm_state": "building",
        "task_state": "spawning", "host": "functional", "node": "functional",
        "numa_topology": None, "trusted_certs": None, "launched_at": None,
        "availability_zone": "nova", "launch_index": 0, "reservation_id": "r-1",
        "device_metadata": None, "keypairs": objects.KeyPairList(objects=[]),
        "pci_devices": objects.PciDeviceList(objects=[]), "access_ip_v4": None,
        "access_ip_v6": None, "old_flavor": None, "new_flavor": None,
        "security_groups": objects.SecurityGroupList(objects=[]),
        "created_at": datetime.datetime.now(datetime.UTC), "disable_terminate": False,
        "ephemeral_key_uuid": None, "migration_context": None, "cleaned": False,
        "ec2_ids": objects.EC2Ids(
            instance_id="i-1", ami_id="ami-1", kernel_id=None, ramdisk_id=None
        ),
        "root_device_name": "/dev/vda", "default_ephemeral_device": None,
        "default_swap_device": None, "architecture": None, "os_type": None, "kernel_id": "",
        "ramdisk_id": "",
    }  # fmt: skip
    return objects.Instance(**{**defaults, **values})


def image_meta(image_id: str, **properties: Any) -> objects.ImageMeta:
    """Return image metadata as the manager hands it over."""
    return objects.ImageMeta.from_dict(
        {"id": image_id, "name": "image", "properties": properties, "disk_format": "raw"}
    )


def network_info(count: int = 1, vif_type: str = "tap", mtu: int = 1442) -> model.NetworkInfo:
    """Return ``count`` ports with an address each."""
    vifs = []
    for index in range(count):
        subnet = model.Subnet(
            cidr=f"10.77.{index}.0/24",
            gateway=model.IP(address=f"10.77.{index}.1", type="gateway"),
            dns=[],
            ips=[model.FixedIP(address=f"10.77.{index}.5")],
            version=4,
        )
        network = model.Network(
            id=str(uuid.uuid4()), bridge="br-int", label="net", subnets=[subnet], mtu=mtu
        )
        port = str(uuid.uuid4())
        vifs.append(
            model.VIF(
                id=port,
                address=f"fa:16:3e:{uuid.UUID(port).bytes[0]:02x}:00:{index:02x}",
                network=network,
                type=vif_type,
                devname="tap" + port[:11],
                active=False,
                details={},
                vnic_type="normal",
            )
        )
    return model.NetworkInfo(vifs)
