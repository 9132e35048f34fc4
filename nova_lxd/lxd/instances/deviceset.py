# SPDX-License-Identifier: Apache-2.0
"""All devices of one instance together: checked, started, stopped in their order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.devices.interface import Device, InstanceView, RunConfig, Volatile
from nova_lxd.lxd.devices.load import load, start_order, validate_all
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.instances.context import Context
from nova_lxd.lxd.instances.expand import Expanded

LOG = logging.getLogger(__name__)

DeviceMap = Mapping[str, Mapping[str, str]]


def view(
    ctx: Context,
    record: InstanceRecord,
    expanded: Expanded,
    idmap: Idmap,
    init_pid: int | None = None,
) -> InstanceView:
    """What devices may know of an instance."""
    return InstanceView(
        record.project,
        record.name,
        idmap,
        init_pid,
        expanded.config,
        expanded.devices,
        ctx.volume_project(record.project),
    )


def profile_view(project: str, config: Mapping[str, str], devices: DeviceMap) -> InstanceView:
    """The same for a profile."""
    return InstanceView(project, "", Idmap(), None, config, devices)


def build(
    ctx: Context, name: str, config: Mapping[str, str], instance: InstanceView
) -> Device:
    """The device object of one configuration.

    :raises BadRequest: the device's type is unknown.
    """
    return load(name, config, instance, ctx.device_host)


def validate(ctx: Context, devices: DeviceMap, instance: InstanceView) -> None:
    """Check every device.

    :raises BadRequest: LXD's sentence about the first one that is wrong.
    """
    validate_all(devices, instance, ctx.device_host)


def add(ctx: Context, names: Iterable[str], instance: InstanceView) -> dict[str, str | None]:
    """Let new devices prepare themselves; the volatile keys to record."""
    changes: dict[str, str | None] = {}
    new = replace(instance, is_new=True)
    for name in names:
        device = build(ctx, name, instance.devices[name], new)
        changes.update(keys(name, device.add()))
    return changes


def keys(device: str, changes: Volatile) -> dict[str, str | None]:
    """A device's volatile changes under the names of instance configuration."""
    return {f"volatile.{device}.{key}": value for key, value in changes.items()}


def patched(config: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """A configuration with some keys set or (None) removed."""
    merged = {**config, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def start(
    ctx: Context, instance: InstanceView, undo: ExitStack
) -> tuple[dict[str, RunConfig], dict[str, str | None]]:
    """Start every device in order: what each wants, and the volatile keys to record.

    Each one's end is pushed on ``undo``.

    :raises LXDError: a device failed; the caller's undo stops the others.
    """
    runs: dict[str, RunConfig] = {}
    changes: dict[str, str | None] = {}
    for name in start_order(instance.devices):
        with starting(name):
            device = build(ctx, name, instance.devices[name], instance)
            undo.callback(_undo_start, ctx, name, instance, changes)
            run = device.start()
        runs[name] = run
        changes.update(keys(name, run.volatile))
    return runs, changes


@contextmanager
def starting(name: str) -> Iterator[None]:
    """Let the errors of a device's start name the device."""
    try:
        yield
    except LXDError as exc:
        exc.message = f'Failed to start device "{name}": {exc.message}'
        exc.args = (exc.message,)
        raise


def _undo_start(
    ctx: Context, name: str, instance: InstanceView, changes: Mapping[str, str | None]
) -> None:
    current = replace(instance, config=patched(instance.config, changes))
    try:
        build(ctx, name, current.devices[name], current).post_stop()
    except (LXDError, OSError):
        LOG.exception("Stopping device %s of %s failed", name, instance.stored_name)


def post_start(ctx: Context, instance: InstanceView) -> None:
    """Let every device finish now that the instance runs."""
    for name in start_order(instance.devices):
        build(ctx, name, instance.devices[name], instance).post_start()


def post_stop(ctx: Context, instance: InstanceView) -> dict[str, str | None]:
    """Take every device back after the instance's end; the volatile keys to record.

    One that fails does not keep the others from it.
    """
    changes: dict[str, str | None] = {}
    for name in reversed(start_order(instance.devices)):
        try:
            device = build(ctx, name, instance.devices[name], instance)
            changes.update(keys(name, device.post_stop()))
        except (LXDError, OSError):
            LOG.exception("Stopping device %s of %s failed", name, instance.stored_name)
    return changes


def remove(ctx: Context, names: Iterable[str], instance: InstanceView) -> None:
    """Let devices forget what they keep for a stopped instance; each after its post_stop."""
    for name in names:
        try:
            build(ctx, name, instance.devices[name], instance).remove()
        except (LXDError, OSError):
            LOG.exception("Removing device %s of %s failed", name, instance.stored_name)
