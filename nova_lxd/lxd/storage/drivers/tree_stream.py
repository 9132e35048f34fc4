# SPDX-License-Identifier: Apache-2.0
"""Sending and receiving trees by rsync, for every driver whose volumes are directories."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.storage import rsync
from nova_lxd.lxd.storage.drivers.generic import TreeDriver, space_errors
from nova_lxd.lxd.storage.drivers.interface import Filler, MigrationType, Transfer, Transport
from nova_lxd.lxd.storage.volume import ContentType, Volume


class TreeStreams(TreeDriver):
    """rsync migration as LXD does it: each snapshot in order, then the volume, into one tree."""

    def migration_types(self, content: ContentType, *, refresh: bool) -> Sequence[MigrationType]:
        return [rsync.RSYNC]

    def send(self, volume: Volume, transfer: Transfer, transport: Transport) -> None:
        self._check_type(transfer)
        features, limit = transfer.type.features, transfer.bwlimit
        for name in transfer.snapshots:
            rsync.send(self.need(volume.at(name)), transport.stream(), features, limit)
        path = self.need(volume)
        rsync.send(path, transport.stream(), features, limit, final=transfer.final)

    def receive(self, volume: Volume, transfer: Transfer, transport: Transport) -> None:
        self._check_type(transfer)
        features = transfer.type.features
        with contextlib.ExitStack() as undo, space_errors(f"Receiving {volume}", self.root):
            if transfer.refresh and self.has(volume):
                tree = self.need(volume)
            else:
                self.vacant(volume)
                tree = undo.enter_context(self.staged())
                self.make_tree(tree)
                self.limit_tree(tree, volume.size)
            for name in transfer.snapshots:
                rsync.receive(tree, transport.stream(), features)
                snapshot = volume.at(name)
                self._keep_as_snapshot(tree, snapshot, transfer.finish)
                if not transfer.refresh:
                    undo.callback(self.delete_snapshot, snapshot)
            with space_errors(f"Receiving {volume}", tree):
                rsync.receive(tree, transport.stream(), features, final=transfer.final)
            if transfer.finish is not None:
                transfer.finish(tree)
            if tree != self.path(volume):
                self.seal(tree, volume)
                tree.rename(self.path(volume))
            undo.pop_all()

    def _keep_as_snapshot(self, tree: Path, snapshot: Volume, finish: Filler | None) -> None:
        path = self.vacant(snapshot)
        with self.staged() as stage:
            self.clone_tree(tree, stage)
            if finish is not None:
                finish(stage)
            stage.rename(path)
        self.freeze_tree(path)

    def _check_type(self, transfer: Transfer) -> None:
        if transfer.type.name != rsync.RSYNC.name:
            raise BadRequest(
                f"Storage driver {self.name} cannot migrate by {transfer.type.name[:32]!r}"
            )

    def backup(self, volume: Volume, parent: str | None, out: int) -> None:
        raise BadRequest(f"Storage driver {self.name} has no optimised backups")

    def restore_backup(self, volume: Volume, source: int) -> None:
        raise BadRequest(f"Storage driver {self.name} has no optimised backups")
