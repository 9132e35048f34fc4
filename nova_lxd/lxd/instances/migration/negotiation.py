# SPDX-License-Identifier: Apache-2.0
"""How a volume is going to be sent: what one side offers and the other one can take."""

from __future__ import annotations

from collections.abc import Sequence

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.instances.migration.wire import (
    FS_BTRFS,
    FS_RSYNC,
    BtrfsFeatures,
    Header,
    RsyncFeatures,
)
from nova_lxd.lxd.storage.drivers.interface import MigrationType

_CODES = {"rsync": FS_RSYNC, "btrfs": FS_BTRFS}
_RSYNC = ("xattrs", "delete", "compress", "bidirectional")
# What LXD takes for granted of a peer that names no features (LXD 3.7).
_OLD_RSYNC = ("xattrs", "delete", "compress")
_SUBVOLUMES = "header_subvolumes"


def offer(types: Sequence[MigrationType]) -> Header:
    """A header that tells these ways of sending, best first."""
    header = Header(fs=_CODES[types[0].name])
    for kind in types:
        if kind.name == "btrfs":
            # LXD sends the list of subvolumes in a header of the stream: one needs the other.
            told = _SUBVOLUMES in kind.features
            header.btrfs = BtrfsFeatures(told, told, False)
        elif kind.name == "rsync":
            header.rsync = RsyncFeatures(*(name in kind.features for name in _RSYNC))
    return header


def match(header: Header, types: Sequence[MigrationType]) -> list[MigrationType]:
    """Which of our types the peer can do too, best first, with the features of both.

    :raises BadRequest: none.
    """
    wanted = (header.fs, FS_RSYNC)
    found = [
        MigrationType(kind.name, tuple(f for f in kind.features if f in _features(header, kind)))
        for kind in types
        if _CODES[kind.name] in wanted
    ]
    if not found:
        raise BadRequest(
            "Migrating failed: the storage pools of the two servers share no way to send a volume"
        )
    return found


def _features(header: Header, kind: MigrationType) -> Sequence[str]:
    if kind.name == "btrfs":
        told = header.btrfs
        both = told is not None and told.migration_header and told.header_subvolumes
        return (_SUBVOLUMES,) if both else ()
    rsync = header.rsync
    if rsync is None or not rsync.bidirectional:
        return _OLD_RSYNC
    return [name for name in _RSYNC if getattr(rsync, name)]
