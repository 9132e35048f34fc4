# SPDX-License-Identifier: Apache-2.0
"""btrfs send streams: migration between servers and optimised backups."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.storage import rsync
from nova_lxd.lxd.storage.copying import run_mortal
from nova_lxd.lxd.storage.drivers import btrfs_ioctl as ioctl
from nova_lxd.lxd.storage.drivers.generic import space_errors
from nova_lxd.lxd.storage.drivers.interface import Filler, MigrationType, Transfer, Transport
from nova_lxd.lxd.storage.drivers.tree_stream import TreeStreams
from nova_lxd.lxd.storage.volume import ContentType, Volume

HEADER_SUBVOLUMES = "header_subvolumes"
BTRFS = MigrationType("btrfs", (HEADER_SUBVOLUMES,))
_HEADER_MOST = 4 * 1024**2


class Subvolume(msgspec.Struct, frozen=True):
    """One stream of a transfer, as LXD's migration header names it."""

    path: str
    snapshot: str = ""
    readonly: bool = False
    uuid: str = ""


class Header(msgspec.Struct):
    """What the sender tells first when ``header_subvolumes`` was agreed upon."""

    subvolumes: list[Subvolume]


def _read_header(stream: socket.socket) -> Header:
    with stream:
        data = bytearray()
        while chunk := stream.recv(65536):
            data += chunk
            if len(data) > _HEADER_MOST:
                raise BadRequest("The sender's list of subvolumes is too long")
        stream.shutdown(socket.SHUT_WR)
    try:
        header = msgspec.json.decode(bytes(data), type=Header)
    except msgspec.DecodeError as exc:
        raise BadRequest(f"The sender's list of subvolumes cannot be read: {exc}") from exc
    for entry in header.subvolumes:
        parts = Path(entry.path).parts
        if parts[:1] != ("/",) or ".." in parts:
            raise BadRequest(f"The sender names a bad subvolume path: {entry.path[:64]!r}")
    return header


class BtrfsStreams(TreeStreams):
    """The send and receive half of the btrfs driver."""

    def migration_types(self, content: ContentType, *, refresh: bool) -> Sequence[MigrationType]:
        return [rsync.RSYNC] if refresh else [BTRFS, rsync.RSYNC]

    # -- sending ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _readonly(self, path: Path) -> Iterator[Path]:
        """A read-only subvolume equal to ``path``: itself, or a clone while the block runs."""
        if ioctl.is_readonly(path):
            yield path
            return
        with self.staged() as stage:
            self.clone_tree(path, stage)
            self.freeze_tree(stage)
            yield stage

    def send(self, volume: Volume, transfer: Transfer, transport: Transport) -> None:
        if transfer.type.name != BTRFS.name:
            super().send(volume, transfer, transport)
            return
        origin = self.need(volume)
        with contextlib.ExitStack() as stack:
            sources = [(name, self.need(volume.at(name))) for name in transfer.snapshots]
            sources.append(("", stack.enter_context(self._readonly(origin))))
            plan = [
                (name, tree, below)
                for name, tree in sources
                for below in ("", *ioctl.nested(tree))
            ]
            if HEADER_SUBVOLUMES in transfer.type.features:
                self._send_header(origin, plan, transport.stream())
            elif any(below for _, _, below in plan):
                raise BadRequest(
                    f"Cannot send {volume}: it holds nested subvolumes and the receiver"
                    " cannot take them; migrate by rsync"
                )
            parents: dict[str, Path] = {}
            for _, tree, below in plan:
                with transport.stream() as stream:
                    _send_subvolume(tree / below, parents.get(below), stream.fileno())
                    stream.shutdown(socket.SHUT_WR)
                parents[below] = tree / below

    def _send_header(
        self, origin: Path, plan: Sequence[tuple[str, Path, str]], stream: socket.socket
    ) -> None:
        entries = [
            Subvolume(
                path=f"/{below}",
                snapshot=name,
                # A snapshot that is sent by itself becomes a volume.
                readonly=ioctl.is_readonly(tree / below) if name else self._stays(origin, below),
            )
            for name, tree, below in plan
        ]
        with stream:
            stream.sendall(msgspec.json.encode(Header(entries)))
            stream.shutdown(socket.SHUT_WR)

    @staticmethod
    def _stays(origin: Path, below: str) -> bool:
        """Is a subvolume of a volume that is sent read-only there too?  Its root never is."""
        return bool(below) and ioctl.is_readonly(origin / below)

    # -- receiving --------------------------------------------------------------------------------

    def receive(self, volume: Volume, transfer: Transfer, transport: Transport) -> None:
        if transfer.type.name != BTRFS.name:
            super().receive(volume, transfer, transport)
            return
        self.vacant(volume)
        if HEADER_SUBVOLUMES in transfer.type.features:
            entries = _read_header(transport.stream()).subvolumes
        else:
            names = [*transfer.snapshots, ""]
            entries = [Subvolume("/", name, bool(name)) for name in names]
        wanted = {*transfer.snapshots, ""}
        with contextlib.ExitStack() as undo, space_errors(f"Receiving {volume}", self.root):
            for name in [*transfer.snapshots, ""]:
                mine = [entry for entry in entries if entry.snapshot == name]
                if not mine or mine[0].path != "/":
                    raise BadRequest(f"The sender does not send {volume} snapshot {name!r}")
                self._receive_volume(volume.at(name) if name else volume, mine, transport)
                undo.callback(self._forget, volume.at(name) if name else volume)
            if any(entry.snapshot not in wanted for entry in entries):
                raise BadRequest(f"The sender sends more snapshots of {volume} than agreed")
            # Not before: each stream builds upon the snapshot before it as that was sent.
            if transfer.finish is not None:
                for part in (*(volume.at(name) for name in transfer.snapshots), volume):
                    self._finish(self.path(part), transfer.finish)
            with space_errors(f"Receiving {volume}", self.root):
                self.limit_tree(self.path(volume), volume.size)
            undo.pop_all()

    @staticmethod
    def _finish(path: Path, finish: Filler) -> None:
        """Let a tree be changed that may be read-only, with what is nested in it."""
        trees = [path, *(path / below for below in ioctl.nested(path))]
        frozen = [tree for tree in trees if ioctl.is_readonly(tree)]
        for tree in frozen:
            ioctl.set_readonly(tree, False)
        finish(path)
        for tree in frozen:
            ioctl.set_readonly(tree, True)

    def _forget(self, volume: Volume) -> None:
        if volume.snapshot is None:
            self.discard(self.path(volume))
        else:
            self.delete_snapshot(volume)

    def _receive_volume(
        self, volume: Volume, entries: Sequence[Subvolume], transport: Transport
    ) -> None:
        path = self.vacant(volume)
        with self.staged() as stage:
            readonly = []
            for entry in entries:
                below = entry.path.lstrip("/")
                with transport.stream() as stream, self._received(stream.fileno()) as tree:
                    stream.shutdown(socket.SHUT_WR)
                    ioctl.set_readonly(tree, False)
                    place = stage / below
                    if below:
                        _check_inside(stage, place)
                        with contextlib.suppress(FileNotFoundError):  # its place may be unsent
                            place.rmdir()
                    tree.rename(place)
                if entry.readonly and (below or volume.snapshot is not None):
                    readonly.append(below)
            self.seal(stage, volume)
            stage.rename(path)
        for below in reversed(readonly):
            ioctl.set_readonly(path / below, True)

    @contextlib.contextmanager
    def _received(self, source: int) -> Iterator[Path]:
        """The one subvolume that a stream makes; removed at the end unless it was moved away."""
        with self.staged() as place:
            place.mkdir(mode=0o700)
            run_mortal(["btrfs", "-q", "receive", "-e", str(self._unbound(place))], stdin=source)
            made = [Path(entry.path) for entry in os.scandir(place)]
            if len(made) != 1:
                raise BadRequest("The stream does not hold exactly one subvolume")
            yield made[0]

    def _unbound(self, path: Path) -> Path:
        """The path by the mount that a pool on a directory was bound from.

        ``btrfs receive`` does not find the parents of a stream below a bind mount of a directory.
        """
        source = self.config.get("source", "")
        if source.startswith("/") and Path(source).is_dir():
            return Path(source) / path.relative_to(self.root)
        return path

    # -- backups ----------------------------------------------------------------------------------

    def backup(self, volume: Volume, parent: str | None, out: int) -> None:
        path = self.need(volume)
        if ioctl.nested(path):
            raise BadRequest(
                f"Cannot make an optimised backup of {volume}: it holds nested subvolumes;"
                " export it without optimized storage"
            )
        base = None if parent is None else self.need(volume.at(parent))
        with self._readonly(path) as tree:
            _send_subvolume(tree, base, out)

    def restore_backup(self, volume: Volume, source: int) -> None:
        path = self.vacant(volume)
        with space_errors(f"Restoring {volume}", self.root), self._received(source) as tree:
            ioctl.set_readonly(tree, False)
            self.seal(tree, volume)
            tree.rename(path)
        if volume.snapshot is not None:
            ioctl.set_readonly(path, True)
        else:
            self.limit_tree(path, volume.size)


def _send_subvolume(path: Path, parent: Path | None, out: int) -> None:
    base = [] if parent is None else ["-p", str(parent)]
    run_mortal(["btrfs", "-q", "send", *base, str(path)], stdout=out)


def _check_inside(stage: Path, place: Path) -> None:
    """Refuse a path that leaves the tree through a symbolic link in what was received."""
    if place.parent.resolve() != place.parent or not place.parent.is_relative_to(stage):
        raise BadRequest("The sender puts a subvolume outside the volume")
