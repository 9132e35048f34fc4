# SPDX-License-Identifier: Apache-2.0
"""A running container as a Glance image, without stopping it.

LXD takes a snapshot of the storage volume (instant on btrfs, zfs, lvm and ceph), makes a unified
image of it, and the driver streams that image to Glance. Snapshot and image are gone from LXD
afterwards, whatever happened.
"""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import nova.conf
from nova import exception as nova_exception
from nova.compute import task_states
from nova.image import glance
from oslo_log import log as logging
from oslo_utils import fileutils

from nova_lxd.virt import exception, guest
from nova_lxd.virt.client import LXDClient

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

PREFIX = "nova-"
PROPERTY = "nova.snapshot"  # on the image of a snapshot: the snapshot's name


class Snapshots:
    """Snapshots of one host's instances."""

    def __init__(self, client: LXDClient) -> None:
        self._client = client
        self._glance = glance.API()
        self._under_way = pathlib.Path(CONF.lxd.image_work_dir, "snapshots", client.project)

    def remove_leftovers(self) -> None:
        """Delete the snapshots that a killed nova-compute left in LXD, and their images."""
        if not self._under_way.exists():
            return
        for mark in self._under_way.iterdir():
            LOG.info("Deleting the snapshot %s, which was never finished", mark.name)
            self._client.delete(
                "instances", mark.read_text(), "snapshots", mark.name, missing_ok=True
            )
            for image in self._client.get("images", recursion="1"):
                if image["properties"].get(PROPERTY) == mark.name and not image["aliases"]:
                    self._client.delete("images", image["fingerprint"], missing_ok=True)
            mark.unlink()

    def _mark(self, snapshot: str, name: str) -> pathlib.Path:
        """Note that a snapshot is under way, for :meth:`remove_leftovers`."""
        fileutils.ensure_tree(str(self._under_way))
        mark = self._under_way / snapshot
        mark.write_text(name)
        return mark

    def upload(self, context: Any, instance: Any, image_id: str, update_task_state: Any) -> None:
        """Snapshot an instance, running or not, into an image that Glance has made already.

        :raises nova.exception.InstanceNotRunning: LXD has no such instance
        """
        name = guest.name(instance)
        shown = self._glance.get(context, image_id)
        snapshot = PREFIX + uuid.uuid4().hex
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self._mark(snapshot, name).unlink)
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
                "properties": {PROPERTY: snapshot},
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
