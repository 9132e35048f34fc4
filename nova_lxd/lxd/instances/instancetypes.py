# SPDX-License-Identifier: Apache-2.0
"""``instance_type``: LXD's own sizes such as ``c1-m2`` (CPUs and GiB of memory)."""

from __future__ import annotations

import re

from nova_lxd.lxd.errors import BadRequest

_CUSTOM = re.compile(
    r"(?:c(?P<cpu>\d{1,4}(?:\.\d{1,3})?))?-?(?:m(?P<memory>\d{1,5}(?:\.\d{1,3})?))?"
)
_MIB = 1024


def limits(name: str) -> dict[str, str]:
    """The ``limits.*`` keys of an instance type.

    :raises BadRequest: it is none that is known here (there is no list of clouds' types offline).
    """
    match = _CUSTOM.fullmatch(name)
    if match is None or not (match["cpu"] or match["memory"]):
        raise BadRequest(
            f"Instance type {name[:64]!r} not found: give limits.cpu and limits.memory, or a type "
            "such as c2-m4"
        )
    config: dict[str, str] = {}
    if match["cpu"]:
        cpus = float(match["cpu"])
        count = max(1, -(-int(cpus * 1000) // 1000))
        config["limits.cpu"] = str(count)
        if cpus < count:
            config["limits.cpu.allowance"] = f"{max(1, int(cpus * 100 / count))}%"
    if match["memory"]:
        config["limits.memory"] = f"{max(1, int(float(match['memory']) * _MIB))}MiB"
    return config
