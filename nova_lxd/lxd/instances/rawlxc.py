# SPDX-License-Identifier: Apache-2.0
"""``raw.lxc`` as liblxc itself reads it, before it is recorded."""

from __future__ import annotations

from collections.abc import Mapping

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.liblxc.client import LiblxcError, Zygote
from nova_lxd.lxd.schema.instancevalues import raw_lxc_lines


def check(liblxc: Zygote, config: Mapping[str, str]) -> None:
    """Let liblxc parse the lines, in a helper process.

    :raises BadRequest: it knows a key not, or refuses a value; the container could not start.
    """
    items = raw_lxc_lines(config.get("raw.lxc", ""))
    if not items:
        return
    try:
        liblxc.check_config("".join(f"{key} = {value}\n" for key, value in items))
    except LiblxcError as exc:
        raise BadRequest(f"Invalid raw.lxc: liblxc refuses it: {exc.reason}") from exc
