# SPDX-License-Identifier: Apache-2.0
"""``limits.network.priority``: the priority of an instance's packets, where the host can do it.

As in LXD it needs the net_prio controller of cgroup v1, which hosts with cgroup v2 alone lack; the
key is accepted there and changes nothing.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host import cgroup_settings as cs
from nova_lxd.lxd.host.cgroups import Cgroup
from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
KEY = "limits.network.priority"


def at_start(svc: Instances, inst: Instance, config: Mapping[str, str]) -> None:
    """Apply the key to an instance that has just started; a failure is logged, as in LXD."""
    group = svc.cgroup(inst) if config.get(KEY) else None
    if group is None:
        return
    try:
        apply(group, config)
    except (InternalError, OSError) as exc:
        LOG.error("Applying the network priority of %s failed: %s", inst, exc)


def apply(group: Cgroup, config: Mapping[str, str]) -> None:
    """Give what a running instance sends its priority on every interface of the host.

    :raises InternalError: no interface took it.
    """
    if group.layout.version("net_prio") != 1:
        return
    priority = int(config.get(KEY) or 0)
    taken = 0
    for _, name in socket.if_nameindex():
        try:
            group.apply([cs.network_priority(name, priority)])
            taken += 1
        except OSError as exc:
            # The controller knows the interfaces of the first network namespace alone.
            if exc.errno != errno.ENODEV:
                raise
    if not taken:
        raise InternalError("Setting the network priority failed: no interface took it")
