# SPDX-License-Identifier: Apache-2.0
"""The config keys of storage pools and volumes, as tables for validation and docs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.schema import instancevalues as values
from nova_lxd.lxd.schema.configkeys import Key, KeyTable, any_text, boolean
from nova_lxd.lxd.schema.sizes import parse_size


def size(value: str) -> str | None:
    """A number of bytes in LXD's units."""
    try:
        parse_size(value)
    except BadRequest:
        return "it is not a size such as 10GiB"
    return None


#: Keys of custom volumes that a pool may preset as ``volume.KEY``.
_VOLUME_DEFAULTS = (
    Key("size", "size", "How much the volume may hold; no limit when empty.", size),
    Key("snapshots.expiry", "string", "Life of new snapshots, such as 1d.", values.expiry),
    Key("snapshots.pattern", "string", "Name of scheduled snapshots.", any_text, "snap%d"),
    Key("snapshots.schedule", "string", "Cron expression or aliases.", values.schedule),
    Key("security.shifted", "bool", "Let containers with any id map use it.", boolean, "false"),
    Key("security.unmapped", "bool", "Attach it without id mapping.", boolean, "false"),
)

VOLUME_KEYS = KeyTable(
    "storage volume",
    [
        *_VOLUME_DEFAULTS,
        Key("user.", "string", "Free text of the user."),
        Key("volatile.idmap.last", "string", "Id map of the files on the volume."),
        Key("volatile.idmap.next", "string", "Id map to come."),
        Key("volatile.uuid", "string", "Identity of the volume."),
    ],
)

#: Volumes of instances and images take no keys that only custom volumes have.
INSTANCE_VOLUME_KEYS = KeyTable(
    "storage volume", [key for key in VOLUME_KEYS.keys.values() if "security." not in key.name]
)


def _pool_table(driver: str, own: Iterable[Key]) -> KeyTable:
    return KeyTable(
        f"{driver} storage pool",
        [
            Key("source", "string", "Block device, loop file or directory that holds the pool."),
            Key("volatile.initial_source", "string", "The source that the pool was made with."),
            Key("rsync.bwlimit", "string", "Most bytes per second of a copy by rsync.", size),
            Key("rsync.compression", "bool", "Compress copies by rsync.", boolean, "true"),
            Key("user.", "string", "Free text of the user."),
            *own,
            *(replace(key, name=f"volume.{key.name}") for key in _VOLUME_DEFAULTS),
        ],
    )


POOL_KEYS = {
    "btrfs": _pool_table(
        "btrfs",
        [
            Key("size", "size", "Size of the loop file; it can grow.", size),
            Key(
                "btrfs.mount_options",
                "string",
                "Mount options of the pool.",
                any_text,
                "user_subvol_rm_allowed",
            ),
        ],
    ),
    "dir": _pool_table("dir", []),
}
