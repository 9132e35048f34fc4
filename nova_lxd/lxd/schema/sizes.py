# SPDX-License-Identifier: Apache-2.0
"""Sizes in LXD's units: ``10GB`` (powers of 1000) and ``10GiB`` (powers of 1024)."""

from __future__ import annotations

import re

from nova_lxd.lxd.errors import BadRequest

_UNITS: dict[str, int] = {
    "": 1,
    "B": 1,
    " bytes": 1,
    **{f"{prefix}B": int(1000**power) for power, prefix in enumerate("kMGTPE", 1)},
    **{f"{prefix}iB": int(1024**power) for power, prefix in enumerate("KMGTPE", 1)},
}
_SIZE = re.compile(r"([0-9]+)([^0-9]*)", re.ASCII)
_MAX = 2**63 - 1


def parse_size(text: str) -> int:
    """Bytes of a size such as ``10GB``, ``5GiB``, ``5120kB`` or ``4096``; 0 for an empty text.

    :raises BadRequest: it is no whole number with one of LXD's units, or beyond 2^63 - 1.
    """
    if not text:
        return 0
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise BadRequest(
            f"Invalid size {text[:64]!r}: give a whole number and a unit such as MB, GB or GiB"
        )
    value = int(match[1][:40]) * unit
    if value > _MAX:
        raise BadRequest(f"Invalid size {text[:64]!r}: it is beyond the largest possible size")
    return value


def format_size(count: int) -> str:
    """``count`` bytes for a human reader, in powers of 1000 with two decimals, as LXD does it."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            return f"{int(value)}B" if unit == "B" else f"{value:.2f}{unit}"
        value /= 1000
    return f"{value:.2f}EB"
