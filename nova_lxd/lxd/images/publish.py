# SPDX-License-Identifier: Apache-2.0
"""Images made of instances and their snapshots (``lxc publish``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.architectures import normalise
from nova_lxd.lxd.images.download import CHUNK, Progress, Settings
from nova_lxd.lxd.images.importer import Importer, Wanted
from nova_lxd.lxd.images.metadata import MAX_SIZE, load_yaml
from nova_lxd.lxd.images.store import Store
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.storage import pack

METADATA = "metadata.yaml"
_TREE = ("templates", "rootfs")


@dataclass(frozen=True)
class InstanceTree:
    """An instance's or snapshot's volume, readable and not changing.

    ``path`` has the layout of an image: metadata.yaml, templates and rootfs, of which the first
    two may be missing; file owners are those inside the container.
    """

    path: Path
    architecture: str


class InstanceExporter(Protocol):
    """What the instances offer to publish."""

    def image_tree(
        self, project: str, name: str, snapshot: str | None
    ) -> AbstractContextManager[InstanceTree]:
        """The tree of an instance or snapshot, held still for the block.

        :raises NotFound: there is none.
        :raises BadRequest: the instance runs.
        """


class Publisher:
    """Packs instances into unified images, one at a time: it takes every cpu there is."""

    def __init__(self, store: Store, importer: Importer, settings: Settings) -> None:
        self._store = store
        self._importer = importer
        self._settings = settings
        self._turn = KeyedLocks()
        self.exporter: InstanceExporter | None = None

    def algorithm(self, asked: str) -> str:
        """The compression that is asked for or configured.

        :raises BadRequest: it is unknown or not installed.
        """
        algorithm = asked or self._settings.get("images.compression_algorithm")
        pack.check_algorithm(algorithm)
        return algorithm

    def publish(
        self,
        project: str,
        name: str,
        compression: str,
        wanted: Wanted,
        op: Operation | None = None,
        requestor: Mapping[str, Any] | None = None,
    ) -> Image:
        """Make an image of the instance ``NAME`` or the snapshot ``NAME/SNAPSHOT``.

        :param project: that of the instance.
        :raises NotFound: there is no such instance or snapshot.
        :raises BadRequest: the instance runs, or the compression is unknown.
        :raises NoSpace: the disk is full.
        """
        assert self.exporter is not None, "the daemon binds the instances before it serves"
        algorithm = self.algorithm(compression)
        self._importer.check_aliases(wanted.project, wanted.aliases)
        instance, _, snapshot = name.partition("/")
        with (
            self._turn.hold("publish"),
            self._store.staging() as staged,
            self.exporter.image_tree(project, instance, snapshot or None) as tree,
        ):
            header = staged.directory / "header"
            header.mkdir()
            (header / METADATA).write_bytes(_metadata(tree, wanted))
            present = tuple(entry for entry in _TREE if (tree.path / entry).is_dir())
            sources = [pack.Source(header, (METADATA,)), pack.Source(tree.path, present)]
            target = staged.open_image()
            progress = Progress(op, "Image pack", key="create_image_from_container_pack_progress")
            with pack.packed(sources, algorithm, staged.directory) as stream:
                while data := stream.read(CHUNK):
                    target.write(data)
                    progress.add(len(data))
            # Properties that are asked for replace the instance's own, as in LXD.
            wanted = replace(wanted, only_properties=bool(wanted.properties))
            return self._importer.admit(staged, wanted, op, requestor)


def _metadata(tree: InstanceTree, wanted: Wanted) -> bytes:
    """metadata.yaml of the new image: the instance's own, dated now, with the asked properties."""
    path = tree.path / METADATA
    fields: Any = {}
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            fields = load_yaml(file.read(MAX_SIZE + 1))
    if not isinstance(fields, dict):
        raise BadRequest("Publishing the instance failed: its metadata.yaml is not a map")
    fields |= {
        "architecture": normalise(tree.architecture),
        "creation_date": int(time.time()),
        "expiry_date": int(wanted.expires_at or 0),
    }
    if wanted.properties:
        fields["properties"] = dict(wanted.properties)
    fields["templates"] = _templates(fields.get("templates"))
    return yaml.safe_dump(fields, sort_keys=True).encode()


def _templates(told: Any) -> Any:
    """The template rules with their one boolean restored: everything was read as text."""
    if not isinstance(told, dict):
        return {}
    rules = {}
    for path, rule in told.items():
        if isinstance(rule, dict) and isinstance(rule.get("create_only"), str):
            rule = {**rule, "create_only": rule["create_only"].lower() in ("true", "yes", "on")}
        rules[path] = rule
    return rules
