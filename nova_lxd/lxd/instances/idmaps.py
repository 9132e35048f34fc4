# SPDX-License-Identifier: Apache-2.0
"""Which host ids an instance gets: shared by default, of its own when isolated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.host import idmap
from nova_lxd.lxd.host.idmap import Idmap, Range
from nova_lxd.lxd.schema.configkeys import is_true

ISOLATED_SIZE = 65536


def isolated(config: Mapping[str, str]) -> bool:
    """Does it want a range of its own?"""
    return is_true(config.get("security.idmap.isolated"))


def size_of(config: Mapping[str, str]) -> int:
    """How many ids an isolated instance gets."""
    text = config.get("security.idmap.size", "")
    return int(text) if text.isdigit() and int(text) else ISOLATED_SIZE


def taken(
    others: Iterable[tuple[InstanceRecord, Mapping[str, str]]], instance_id: int
) -> list[Range]:
    """The ranges that other isolated instances hold (record, expanded config)."""
    found = []
    for record, config in others:
        base = record.config.get("volatile.idmap.base", "0")
        if record.id != instance_id and isolated(config) and base not in ("", "0"):
            found.append(Range(int(base), size_of(config)))
    return found


def choose(
    ids: Range, config: Mapping[str, str], used: Iterable[Range]
) -> tuple[Idmap, int]:
    """The map of an instance, and its base (0 unless it is isolated).

    :param config: expanded, with the ``volatile.idmap.base`` it had so far.
    :param used: ranges of other isolated instances.
    :raises InternalError: no room is left for an isolated range.
    """
    if is_true(config.get("security.privileged")):
        return Idmap(), 0
    extra = idmap.parse_raw_idmap(config.get("raw.idmap", ""))
    if not isolated(config):
        return idmap.default_map(ids).with_entries(extra), 0
    size = size_of(config)
    base = _kept_base(ids, config, size, list(used))
    return Idmap.simple(base, size).with_entries(extra), base


def _kept_base(ids: Range, config: Mapping[str, str], size: int, used: list[Range]) -> int:
    wanted = config.get("security.idmap.base") or config.get("volatile.idmap.base") or "0"
    base = int(wanted)
    inside = ids.base <= base and base + size <= ids.base + ids.size
    free = all(base + size <= r.base or r.base + r.size <= base for r in used)
    # A base the administrator asked for is taken as it is; one of ours only while it fits.
    if base and (config.get("security.idmap.base") or (inside and free)):
        return base
    return idmap.isolated_base(ids, size, used)
