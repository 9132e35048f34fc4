# SPDX-License-Identifier: Apache-2.0
"""Creating an instance from an image or empty: checked, recorded, given a volume."""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.profiles import Devices
from nova_lxd.lxd.devices.load import start_order
from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.images import architectures
from nova_lxd.lxd.instances import confine, deviceset, idmaps, naming, rawlxc, verbs, volumes
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.trace import Trace
from nova_lxd.lxd.schema import instancekeys
from nova_lxd.lxd.storage.volume import ROOTFS, Volume

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewInstance:
    """What a client asks for; None for profiles means the image's or project's default."""

    project: str
    name: str
    architecture: str = ""
    description: str = ""
    ephemeral: bool = False
    stateful: bool = False
    config: dict[str, str] = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    profiles: list[str] | None = None
    created_at: float = 0.0


@dataclass(frozen=True)
class ImageSource:
    """The image to create from: what the image store's record says."""

    fingerprint: str
    architecture: str
    properties: Mapping[str, str]
    profiles: list[str]


def validate(svc: Instances, new: NewInstance) -> Expanded:
    """Check everything that can be checked before anything is made.

    :raises BadRequest: name, configuration, device, profile or architecture is wrong.
    :raises Conflict: the name is taken.
    """
    naming.check_instance_name(new.name)
    if db_instances.get(svc.ctx.db, new.project, new.name) is not None:
        raise Conflict(f'Instance "{new.name}" already exists')
    if new.architecture and new.architecture not in architectures.runnable():
        raise BadRequest(
            f"Failed creating instance record: Requested architecture isn't supported by this "
            f"host: {new.architecture[:32]}"
        )
    instancekeys.validate(new.config)
    profiles = new.profiles or []
    if len(set(profiles)) != len(profiles):
        raise BadRequest("Failed creating instance record: Duplicate profile found in request")
    expanded = svc.expander().expand(new.project, profiles, new.config, new.devices)
    check_expanded(svc, new.project, new.name, expanded)
    return expanded


def check_expanded(svc: Instances, project: str, name: str, expanded: Expanded) -> str:
    """Check an expanded configuration and its devices; returns the root disk's pool.

    :raises BadRequest: something in it is wrong.
    """
    instancekeys.validate(expanded.config)
    rawlxc.check(svc.ctx.liblxc, expanded.config)
    confine.check(svc.ctx, project, name, expanded.config)
    pool = volumes.require_pool(svc.ctx, expanded.root)
    ids = svc.idmap_of(expanded.config)
    record = InstanceRecord(project, name, architectures.host(), pool, 0.0)
    deviceset.validate(
        svc.ctx, expanded.devices, deviceset.view(svc.ctx, record, expanded, ids)
    )
    return pool


def from_image(svc: Instances, new: NewInstance, image: ImageSource) -> Instance:
    """An instance whose volume is a clone of the image's, or the image unpacked.

    :raises LXDError: as :func:`validate`, or the pool is full.
    """
    config = {
        **{f"image.{key}": value for key, value in image.properties.items()},
        **new.config,
        "volatile.base_image": image.fingerprint,
        "volatile.apply_template": "create",
    }
    profiles = image.profiles if new.profiles is None else new.profiles
    full = replace(new, config=config, profiles=profiles, architecture=image.architecture)

    def fill(volume: Volume, pool_name: str) -> None:
        pool = svc.ctx.storage.get(pool_name)
        sized = pool.with_defaults(volume)
        pool.check_size(sized.size, sized)
        if pool.info.optimized_images:
            with svc.ctx.images.hold_volume(pool_name, image.fingerprint) as cached:
                pool.driver.copy_volume(sized, cached)
        else:
            pool.driver.create_volume(sized, svc.ctx.images.filler(image.fingerprint))

    return _create(svc, full, fill)


def empty(svc: Instances, new: NewInstance) -> Instance:
    """An instance with an empty root (source type ``none``)."""
    profiles = ["default"] if new.profiles is None else new.profiles
    architecture = new.architecture or architectures.host()
    config = {**new.config, "volatile.apply_template": "create"}
    full = replace(new, profiles=profiles, architecture=architecture, config=config)

    def make_rootfs(path: Path) -> None:
        (path / ROOTFS).mkdir(mode=0o755)

    def fill(volume: Volume, pool_name: str) -> None:
        svc.ctx.storage.get(pool_name).create_volume(volume, make_rootfs)

    return _create(svc, full, fill)


def with_volatile(svc: Instances, expanded: Expanded, config: dict[str, str]) -> dict[str, str]:
    """``config`` with the volatile keys that every new instance has."""
    ids, base = idmaps.choose(svc.ctx.ids, expanded.config, svc.isolated_ranges(expanded, 0))
    return {
        **config,
        "volatile.uuid": str(uuid.uuid4()),
        "volatile.cloud-init.instance-id": str(uuid.uuid4()),
        "volatile.idmap.base": str(base),
        "volatile.idmap.next": ids.to_json(),
        "volatile.last_state.idmap": "[]",
    }


def insert(svc: Instances, new: NewInstance, expanded: Expanded, intent: str) -> InstanceRecord:
    """Record a new instance before anything of it exists.

    :raises Conflict: somebody else took the name just now.
    """
    pool = volumes.require_pool(svc.ctx, expanded.root)
    with svc.isolated_lock:
        record = InstanceRecord(
            project=new.project,
            name=new.name,
            architecture=new.architecture or architectures.host(),
            pool=pool,
            created_at=new.created_at or time.time(),
            description=new.description,
            ephemeral=new.ephemeral,
            stateful=new.stateful,
            config=with_volatile(svc, expanded, new.config),
            devices=new.devices,
            profiles=new.profiles or [],
            intent=intent,
        )
        try:
            return db_instances.create(svc.ctx.db, record)
        except sqlite3.IntegrityError as exc:
            raise Conflict(f'Instance "{new.name}" already exists') from exc


def prepare_devices(
    svc: Instances, record: InstanceRecord, expanded: Expanded
) -> dict[str, str | None]:
    """Let the devices of a new instance prepare themselves; what they want recorded."""
    config = {**expanded.config, **record.config}
    full = Expanded(config, expanded.devices)
    seen = deviceset.view(svc.ctx, record, full, svc.idmap_of(config))
    return deviceset.add(svc.ctx, start_order(expanded.devices), seen)


def _create(svc: Instances, new: NewInstance, fill: Callable[[Volume, str], None]) -> Instance:
    trace = Trace(f"creation of instance {new.name!r}")
    expanded = validate(svc, new)
    trace.step("checks")
    with ExitStack() as undo:
        record = insert(svc, new, expanded, verbs.CREATE)
        trace.step("record")
        undo.callback(db_instances.delete, svc.ctx.db, record.id)
        volume = volumes.of_record(record, expanded)
        fill(volume, record.pool)
        trace.step("volume")
        undo.callback(volumes.driver(svc.ctx, record.pool).delete_volume, volume)
        volumes.link(svc.ctx.paths, record.pool, volume)
        undo.callback(volumes.unlink, svc.ctx.paths, volume)
        changes = prepare_devices(svc, record, expanded)
        trace.step("devices")
        db_instances.set_config(svc.ctx.db, record.id, changes, intent="")
        undo.pop_all()
    inst = svc.adopt_record(record)
    svc.announce(
        "instance-created", inst, context={"storage-pool": record.pool, "type": "container"}
    )
    trace.step("end")
    trace.done()
    LOG.info("Created %s", inst)
    return inst
