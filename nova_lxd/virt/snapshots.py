# SPDX-License-Identifier: Apache-2.0
"""A running container as a Glance image, without stopping it.

LXD takes a snapshot of the storage volume (instant on btrfs, zfs, lvm and ceph), makes a unified
image of it, and the driver streams that image to Glance. Snapshot and image are gone from LXD
afterwards, whatever happened.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import nova.conf
from nova import exception as nova_exception
from nova.compute import task_states
from nova.image import glance

from nova_lxd.virt import exception, guest
from nova_lxd.virt.client import LXDClient

CONF = nova.conf.CONF

PREFIX = "nova-"


class Snapshots:
    """Snapshots of one host's instances."""

    def __init__(self, client: LXDClient) -> None:
        self._client = client
        self._glance = glance.API()

    def upload(self, context: Any, instance: Any, image_id: str, update_task_state: Any) -> None:
        """Snapshot an instance, running or not, into an image that Glance has made already.

        :raises nova.exception.InstanceNotRunning: LXD has no such instance
        """
        name = guest.name(instance)
        shown = self._glance.get(context, image_id)
        snapshot = PREFIX + uuid.uuid4().hex
        with contextlib.ExitStack() as cleanup:
            try:
                self._client.post(
                    "instances", name, "snapshots", json={"name": snapshot, "stateful": False}
                )
            except exception.LXDNotFound:
                raise nova_exception.InstanceNotRunning(instance_id=instance.uuid)
            cleanup.callback(
                self._client.delete, "instances", name, "snapshots", snapshot, missing_ok=True
            )
            update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
            fingerprint = self._publish(name, snapshot)
            cleanup.callback(self._client.delete, "images", fingerprint, missing_ok=True)
            update_task_state(
                task_state=task_states.IMAGE_UPLOADING,
                expected_state=task_states.IMAGE_PENDING_UPLOAD,
            )
            with self._client.stream("images", fingerprint, "export") as pieces:
                self._glance.update(
                    context,
                    image_id,
                    _image_metadata(instance, shown["name"]),
                    Reader(pieces),
                    purge_props=False,
                )

    def _publish(self, name: str, snapshot: str) -> str:
        operation = self._client.post(
            "images",
            json={
                "source": {"type": "snapshot", "name": f"{name}/{snapshot}"},
                "compression_algorithm": CONF.lxd.snapshot_compression,
                "public": False,
            },
        )
        return operation["metadata"]["fingerprint"]


def _image_metadata(instance: Any, name: str) -> dict[str, Any]:
    """Return what Glance is told of a snapshot; it boots on this driver as it is."""
    return {
        "status": "active",
        "name": name,
        "disk_format": "raw",
        "container_format": "bare",
        "properties": {
            "image_location": "snapshot",
            "image_state": "available",
            "owner_id": instance.project_id,
        },
    }


class Reader:
    """A file-like view of an iterator of pieces, for Glance's client, in constant memory."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, b'' at the end."""
        if size < 0:
            taken, self._rest = self._rest + b"".join(self._pieces), b""
            return taken
        while len(self._rest) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
