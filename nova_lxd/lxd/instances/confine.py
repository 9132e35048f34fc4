# SPDX-License-Identifier: Apache-2.0
"""What keeps a container in: seccomp policy and, where the kernel has it, AppArmor."""

from __future__ import annotations

from collections.abc import Mapping

from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.instances.context import Context

Items = list[tuple[str, str]]


def prepare(
    ctx: Context, project: str, name: str, config: Mapping[str, str], idmap: Idmap
) -> Items:
    """Write and load what the instance needs; the liblxc items that use it."""
    return []


def remove(ctx: Context, project: str, name: str) -> None:
    """Remove what :func:`prepare` made; idempotent."""
