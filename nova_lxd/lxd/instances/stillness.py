# SPDX-License-Identifier: Apache-2.0
"""Instances that the daemon itself holds still for a moment, so that their files do not change.

A note on disk tells such a pause from one that the user asked for: a daemon that was killed in
between lets the instance run on at its next start, and leaves alone what a user has frozen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from nova_lxd.lxd.instances.instance import Instance

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


@contextmanager
def still(svc: Instances, inst: Instance, pool: str) -> Iterator[None]:
    """Keep an instance's files from changing where the pool needs that for a consistent copy.

    The caller holds the instance's lock.
    """
    safe = not inst.is_running or svc.ctx.storage.get(pool).info.running_copy_safe
    with ExitStack() as stack:
        if not safe:
            stack.enter_context(paused(svc, inst))
        yield


@contextmanager
def paused(svc: Instances, inst: Instance) -> Iterator[None]:
    """Freeze a running instance for the block; one that is frozen already stays so after it.

    The caller holds the instance's lock.

    :raises InternalError: its processes do not stop.
    """
    group = None if inst.frozen else svc.cgroup(inst)
    if group is None:
        yield
        return
    note = svc.ctx.paths.pause_note(inst.project, inst.name)
    with ExitStack() as undo:
        note.touch(mode=0o600)
        undo.callback(note.unlink, missing_ok=True)
        undo.callback(group.thaw)
        group.freeze()
        yield


def recover(svc: Instances, inst: Instance) -> None:
    """Let an instance run on that an earlier daemon, killed meanwhile, had paused."""
    note = svc.ctx.paths.pause_note(inst.project, inst.name)
    if not note.exists():
        return
    if inst.is_running:
        LOG.warning("%s was paused by a daemon that has ended; it runs on", inst)
        svc.thaw_processes(inst)
    note.unlink()
