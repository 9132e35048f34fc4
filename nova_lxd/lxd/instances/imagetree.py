# SPDX-License-Identifier: Apache-2.0
"""Instances and snapshots as trees to make images of (``lxc publish``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.publish import InstanceTree
from nova_lxd.lxd.instances import volumes

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances


class ImageTrees:
    """The image store's :class:`~nova_lxd.lxd.images.publish.InstanceExporter`."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    @contextmanager
    def image_tree(self, project: str, name: str, snapshot: str | None) -> Iterator[InstanceTree]:
        """The tree of a stopped instance, or of a snapshot, which nothing changes in the block.

        :raises NotFound: there is none.
        :raises BadRequest: the instance runs.
        :raises Conflict: another action holds the instance.
        """
        svc = self._instances
        inst = svc.get(project, name)
        with svc.hold(inst, "publish"):
            record = svc.record(inst)
            volume = volumes.of_record(record)
            if snapshot is not None:
                svc.snapshot(inst, snapshot)
                volume = volume.at(snapshot)
            elif inst.running is not None:
                raise BadRequest("Cannot export a running instance as an image")
            with svc.ctx.storage.get(record.pool).mounted(volume) as path:
                yield InstanceTree(path, record.architecture)
