# SPDX-License-Identifier: Apache-2.0
"""Kernel modules that an instance asks for (``linux.kernel_modules``)."""

from __future__ import annotations

from pathlib import Path

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.run import ProgramError, run


def load(names: str) -> None:
    """Load the modules of a comma-separated list that are neither loaded nor built in.

    :raises BadRequest: one cannot be loaded.
    """
    for name in (part.strip() for part in names.split(",")):
        if not name or Path("/sys/module", name.replace("-", "_")).is_dir():
            continue
        try:
            run(["modprobe", "--", name])
        except ProgramError as exc:
            raise BadRequest(
                f'Failed to load kernel module "{name[:64]}": {exc.stderr.strip() or exc}'
            ) from exc
