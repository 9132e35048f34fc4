# SPDX-License-Identifier: Apache-2.0
"""Backups: an instance with its snapshots as one archive, and back (``lxc export``, ``import``).

The archive is LXD's: ``backup/index.yaml``, ``backup/snapshots/NAME`` and ``backup/container``.
Trees in it have the container's own ids, which index.yaml says by ``volatile.last_state.idmap``.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nova_lxd.lxd.db import backups as db_backups
from nova_lxd.lxd.db import instances as db_instances
from nova_lxd.lxd.db import snapshots as db_snapshots
from nova_lxd.lxd.db.backups import BackupRecord
from nova_lxd.lxd.errors import BadRequest, Conflict, NotFound
from nova_lxd.lxd.host import mounts, shift
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.images.decompress import decompressed
from nova_lxd.lxd.images.formats import detect
from nova_lxd.lxd.images.tarstream import TarStream
from nova_lxd.lxd.instances import backupindex, backupstream, create, naming, verbs, volumes
from nova_lxd.lxd.instances.backupindex import Index
from nova_lxd.lxd.instances.create import NewInstance
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.stillness import still
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.storage import pack
from nova_lxd.lxd.storage.copying import equal_tree, remove_tree
from nova_lxd.lxd.storage.inside import need_directory
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.unpack import Limits, unpack_archive
from nova_lxd.lxd.storage.volume import ROOTFS, Volume

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

LOG = logging.getLogger(__name__)
_INDEX = "backup/index.yaml"
_MAX_SCANNED = 1 << 30
_PATIENCE = 30.0


@dataclass(frozen=True)
class Wanted:
    """A backup to be made."""

    name: str
    expires_at: float = 0.0
    instance_only: bool = False
    compression: str = ""
    optimized: bool = False


def archive(svc: Instances, inst: Instance, name: str) -> Path:
    """Where the archive of a backup is."""
    return svc.ctx.paths.backups / "instances" / inst.stored_name / name


def get(svc: Instances, inst: Instance, name: str) -> BackupRecord:
    """:raises NotFound: the instance has no such backup."""
    for found in db_backups.of_instance(svc.ctx.db, inst.id):
        if found.name == name:
            return found
    raise NotFound("Instance backup not found")


def free_name(svc: Instances, inst: Instance) -> str:
    """LXD's ``backupN`` with the next free number."""
    taken = {backup.name for backup in db_backups.of_instance(svc.ctx.db, inst.id)}
    number = 0
    while f"backup{number}" in taken:
        number += 1
    return f"backup{number}"


def check(svc: Instances, wanted: Wanted) -> str:
    """Check what is wanted; returns the compression algorithm that is meant.

    :raises BadRequest: bad name or unknown compression.
    """
    naming.check_snapshot_name(wanted.name)
    algorithm = wanted.compression or svc.ctx.config.get("backups.compression_algorithm")
    if pack.check_algorithm(algorithm)[0] == pack.SQUASHFS:
        raise BadRequest("Backing up failed: squashfs is no compression for backups; use gzip")
    return algorithm


def make(svc: Instances, inst: Instance, wanted: Wanted) -> None:
    """Write the archive of an instance, which may run, and record it.

    :raises Conflict: the name is taken.  :raises BadRequest: as :func:`check`.
    """
    algorithm = check(svc, wanted)
    path = archive(svc, inst, wanted.name)
    with svc.hold(inst, "backup", _PATIENCE), ExitStack() as undo:
        if any(b.name == wanted.name for b in db_backups.of_instance(svc.ctx.db, inst.id)):
            raise Conflict(f'Backup "{wanted.name}" already exists')
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.new")
        undo.callback(partial.unlink, missing_ok=True)
        with partial.open("wb") as out:
            _write(svc, inst, wanted, algorithm, out)
        partial.rename(path)
        undo.callback(path.unlink, missing_ok=True)
        record = BackupRecord(
            inst.id,
            wanted.name,
            time.time(),
            wanted.expires_at,
            wanted.instance_only,
            _is_optimized(svc, inst, wanted),
            algorithm,
        )
        try:
            db_backups.create(svc.ctx.db, record)
        except sqlite3.IntegrityError as exc:
            raise Conflict(f'Backup "{wanted.name}" already exists') from exc
        undo.pop_all()
    svc.announce("instance-backup-created", inst, context={"name": wanted.name})
    LOG.info("Backed up %s as %s", inst, wanted.name)


def _is_optimized(svc: Instances, inst: Instance, wanted: Wanted) -> bool:
    """As in LXD the wish is passed over where the storage has no streams of its own."""
    pool = svc.ctx.storage.get(svc.record(inst).pool)
    return wanted.optimized and pool.info.optimized_backups


def _write(svc: Instances, inst: Instance, wanted: Wanted, algorithm: str, out: IO[bytes]) -> None:
    """Assemble the archive's tree out of bind mounts and pack it."""
    record = svc.record(inst)
    pool = svc.ctx.storage.get(record.pool)
    row = svc.ctx.storage.row(record.pool)
    volume = volumes.of_record(record)
    kept = [] if wanted.instance_only else db_snapshots.of_instance(svc.ctx.db, inst.id)
    expander = svc.expander()
    expanded = expander.expand(record.project, record.profiles, record.config, record.devices)
    described = [
        (s, expander.expand(record.project, s.profiles, s.config, s.devices))
        for s in kept
        if not s.intent
    ]
    with ExitStack() as stack:
        top = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".export-", dir=svc.ctx.paths.backups)
            )
        )
        tree = top / "backup"
        tree.mkdir()
        optimized = _is_optimized(svc, inst, wanted)
        index = backupindex.dump(record, expanded, described, row, optimized=optimized)
        (top / _INDEX).write_bytes(index)
        _keep_description(
            pool.driver.mount_volume(volume),
            backupindex.describe(record, expanded, described, row),
        )
        names = [snapshot.name for snapshot, _expanded in described]
        with still(svc, inst, record.pool):
            if optimized:
                backupstream.write(pool.driver, volume, names, tree)
            else:
                _bind_trees(stack, pool, volume, names, tree)
            entries = [_INDEX, "backup/container" + (".bin" if optimized else "")]
            if described:
                entries.insert(1, "backup/snapshots")
            pack.write([pack.Source(top, tuple(entries))], algorithm, out)


def _keep_description(volume: Path, description: Mapping[str, Any]) -> None:
    try:
        backupindex.keep(volume, description)
    except OSError as exc:  # it is full: the backup can be imported here all the same
        LOG.warning("Writing backup.yaml into %s failed: %s", volume, exc)


def _bind_trees(
    stack: ExitStack, pool: Pool, volume: Volume, snapshots: list[str], tree: Path
) -> None:
    for name in snapshots:
        source = stack.enter_context(pool.mounted(volume.at(name)))
        _bind(stack, source, tree / "snapshots" / name)
    source = stack.enter_context(pool.mounted(volume))
    _bind(stack, source, tree / "container")


def _bind(stack: ExitStack, source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    mounts.bind(source, target, readonly=True)
    stack.callback(mounts.unmount, target)


def rename(svc: Instances, inst: Instance, name: str, new: str) -> None:
    """:raises Conflict: the new name is taken."""
    naming.check_snapshot_name(new)
    with svc.hold(inst, "rename backup", _PATIENCE):
        get(svc, inst, name)
        if any(b.name == new for b in db_backups.of_instance(svc.ctx.db, inst.id)):
            raise Conflict(f'Backup "{new}" already exists')
        archive(svc, inst, name).rename(archive(svc, inst, new))
        db_backups.rename(svc.ctx.db, inst.id, name, new)
    svc.announce("instance-backup-renamed", inst, context={"name": new, "old_name": name})


def delete(svc: Instances, inst: Instance, name: str) -> None:
    """Remove a backup and its archive."""
    with svc.hold(inst, "delete backup", _PATIENCE):
        get(svc, inst, name)
        path = archive(svc, inst, name)
        path.unlink(missing_ok=True)
        db_backups.delete(svc.ctx.db, inst.id, name)
        with contextlib.suppress(OSError):  # other backups are there
            path.parent.rmdir()
    svc.announce("instance-backup-deleted", inst, context={"name": name})


def remove_expired(svc: Instances, now: float) -> None:
    """Delete the backups whose time is over."""
    for record in db_backups.expired(svc.ctx.db, now):
        inst = svc.by_id(record.instance_id)
        if inst is not None:
            delete(svc, inst, record.name)


def sweep(svc: Instances) -> None:
    """At start-up: remove what a killed daemon left half-made, and archives that nobody knows."""
    backups = svc.ctx.paths.backups
    for entry in backups.glob(".*port-*"):
        mounts.unmount_all(entry)
        remove_tree(entry)
    known = {archive(svc, i, b.name) for i in svc.all() for b in _of(svc, i)}
    for path in (backups / "instances").glob("*/*"):
        if path not in known:
            path.unlink()


def _of(svc: Instances, inst: Instance) -> list[BackupRecord]:
    return db_backups.of_instance(svc.ctx.db, inst.id)


def read_index(path: Path) -> Index:
    """The index of a backup's archive, which stands at its beginning.

    :raises BadRequest: the file is no backup.
    """
    with decompressed(path, detect(path)) as stream:
        tar = TarStream(stream, _MAX_SCANNED)
        for member in tar:
            if member.name.removeprefix("./") == _INDEX:
                return backupindex.parse(tar.read(member, backupindex.MAX_INDEX))
    raise BadRequest(f"Importing the backup failed: it has no {_INDEX}")


@dataclass(frozen=True)
class Import:
    """An archive to be made an instance of; empty names mean the backup's own."""

    path: Path
    project: str
    name: str = ""
    pool: str = ""


def restore(svc: Instances, wanted: Import, index: Index) -> Instance:
    """Make the instance of a backup, with its snapshots.

    :raises BadRequest: the archive holds what it may not, or its configuration is invalid.
    :raises Conflict: the name is taken.
    """
    source = index.instance
    config, idmap = _imported_config(source.config)
    new = NewInstance(
        project=wanted.project,
        name=wanted.name or index.name,
        architecture=source.architecture,
        description=source.description,
        ephemeral=source.ephemeral,
        config=config,
        devices=_on_pool(svc, wanted, source.devices, source.profiles),
        profiles=source.profiles,
        created_at=source.created_at,
    )
    for snapshot in index.snapshots:
        naming.check_snapshot_name(snapshot.name)
    expanded = create.validate(svc, new)
    privileged = is_true(expanded.config.get("security.privileged"))
    with ExitStack() as undo:
        record = create.insert(svc, new, expanded, verbs.CREATE)
        undo.callback(db_instances.delete, svc.ctx.db, record.id)
        pool = svc.ctx.storage.get(record.pool)
        if index.optimized:
            backupstream.check(index, pool)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=svc.ctx.paths.backups) as scratch:
            tree = Path(scratch, "tree")
            tree.mkdir()
            unpack_archive(wanted.path, tree, Limits(any_device=privileged))
            volume = _make_volume(pool, volumes.of_record(record, expanded), index, tree, idmap)
            undo.callback(pool.driver.delete_volume, volume)
        volumes.link(svc.ctx.paths, record.pool, volume, snapshots=bool(index.snapshots))
        undo.callback(volumes.unlink, svc.ctx.paths, volume)
        for snapshot in index.snapshots:
            kept, _idmap = _imported_config(snapshot.config)
            db_snapshots.create(
                svc.ctx.db, replace(snapshot, instance_id=record.id, config=kept, intent="")
            )
        changes = create.prepare_devices(svc, record, expanded)
        if identity := source.config.get("volatile.uuid"):
            changes["volatile.uuid"] = identity  # a restored instance is the same one, as in LXD
        db_instances.set_config(svc.ctx.db, record.id, changes, intent="")
        undo.pop_all()
    inst = svc.adopt_record(record)
    context = {"storage-pool": record.pool, "type": "container"}
    svc.announce("instance-created", inst, context=context)
    LOG.info("Imported %s from a backup", inst)
    return inst


def _make_volume(pool: Pool, volume: Volume, index: Index, tree: Path, idmap: Idmap) -> Volume:
    """Make an instance's volume with its snapshots of an unpacked archive; on failure none."""
    names = [snapshot.name for snapshot in index.snapshots]
    if index.optimized:
        volume = pool.with_defaults(volume)
        backupstream.read(pool.driver, volume, names, tree, idmap)
        return volume
    volume = pool.create_volume(volume)
    with ExitStack() as undo:
        undo.callback(pool.driver.delete_volume, volume)
        for name in names:
            _fill(pool.driver.mount_volume(volume), tree, f"snapshots/{name}", idmap)
            pool.driver.create_snapshot(volume.at(name))
        _fill(pool.driver.mount_volume(volume), tree, "container", idmap)
        undo.pop_all()
    return volume


def _imported_config(config: Mapping[str, str]) -> tuple[dict[str, str], Idmap]:
    """The configuration without what was the other server's, and the id map of its trees."""
    text = config.get("volatile.last_state.idmap", "[]")
    foreign = ("volatile.idmap.", "volatile.last_state.", "volatile.uuid")
    kept = {
        key: value
        for key, value in config.items()
        if not key.startswith(foreign) and not key.endswith((".host_name", ".last_state.created"))
    }
    return kept, Idmap.from_json(text) if text else Idmap()


def _on_pool(
    svc: Instances, wanted: Import, devices: Mapping[str, Mapping[str, str]], profiles: list[str]
) -> dict[str, dict[str, str]]:
    """The devices, with the root disk on the pool that was asked for."""
    result = {name: dict(device) for name, device in devices.items()}
    if not wanted.pool:
        return result
    expanded = svc.expander().expand(wanted.project, profiles, {}, result)
    root = expanded.root
    name, device = root if root else ("root", {"type": "disk", "path": "/"})
    result[name] = {**device, "pool": wanted.pool}
    return result


def _fill(target: Path, tree: Path, part: str, idmap: Idmap) -> None:
    """Make a volume's content that of one part of the unpacked archive."""
    rootfs = need_directory(tree, f"backup/{part}/{ROOTFS}", "Importing the backup")
    if idmap:
        shift.unshift(rootfs, idmap)
    equal_tree(rootfs.parent, target)


def describe(record: BackupRecord) -> dict[str, Any]:
    """The fields of LXD's InstanceBackup that need no formatting."""
    return {
        "name": record.name,
        "instance_only": record.instance_only,
        "container_only": record.instance_only,
        "optimized_storage": record.optimized,
    }
