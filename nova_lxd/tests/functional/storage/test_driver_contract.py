# SPDX-License-Identifier: Apache-2.0
"""One contract, every storage driver: what interface.py promises, on real file systems."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest, Conflict, NoSpace, NotFound
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.storage import loop
from nova_lxd.lxd.storage.drivers.generic import STAGING
from nova_lxd.lxd.storage.drivers.interface import MigrationType, Transfer
from nova_lxd.lxd.storage.pool import Pool
from nova_lxd.lxd.storage.volume import ContentType, Volume, VolumeType
from nova_lxd.tests.functional.storage import backends

FINGERPRINT = "0123456789abcdef" * 4
IMAGE = Volume(VolumeType.IMAGE, FINGERPRINT)
C1 = Volume(VolumeType.CONTAINER, "c1")
C2 = Volume(VolumeType.CONTAINER, "p_c2")
CUSTOM = Volume(VolumeType.CUSTOM, "default_data")
EVERYTHING = [C1, C2, CUSTOM]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes file systems and mounts them")


@pytest.fixture(params=list(backends.BACKENDS))
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    with backends.pool(request.param, tmp_path) as made:
        yield made
        assert not list((made.driver.root / STAGING).iterdir()), "something half-made is left"
    assert not made.driver.root.exists()
    assert mounts.find(made.driver.root) is None
    assert not list(made.driver.disks.glob("*")) if made.driver.disks.exists() else True


def names(pool: Pool, kind: VolumeType = VolumeType.CONTAINER) -> list[str]:
    return [volume.full_name for volume in pool.driver.list_volumes(kind)]


def full(pool: Pool, volume: Volume = C1) -> list[str]:
    """Make a filled volume; returns the digest of what is in it."""
    pool.create_volume(volume, backends.fill)
    return backends.digest(pool.driver.path(volume))


def change(pool: Pool, volume: Volume) -> list[str]:
    """Change a volume; returns the new digest."""
    root = pool.driver.path(volume) / "rootfs"
    (root / "file-1").write_text("changed")
    (root / "file-2").unlink()
    (root / "new").write_text("new")
    return backends.digest(pool.driver.path(volume))


# -- pool ---------------------------------------------------------------------------------------


def test_pool_is_closed_to_the_users_of_the_host(pool: Pool) -> None:
    for kind in VolumeType:
        assert (pool.driver.root / kind.directory).stat().st_mode & 0o777 == 0o700


def test_pool_survives_unmount_and_a_new_daemon(pool: Pool) -> None:
    before = full(pool)
    pool.unmount()
    again = Pool(Paths(pool.driver.disks.parent), pool.name, pool.driver.name, pool.config)
    again.mount()
    assert again.mount() is False
    assert names(again) == ["c1"]
    assert backends.digest(again.driver.path(C1)) == before


def test_pool_in_use_is_not_unmounted(pool: Pool) -> None:
    full(pool)
    if pool.driver.root == Path(pool.config["source"]):
        pytest.skip("the pool is no mount of its own")
    with (pool.driver.path(C1) / "metadata.yaml").open(), pytest.raises(Conflict):
        pool.unmount()
    assert pool.driver.has(C1)


def test_pool_that_exists_is_not_made_again(pool: Pool) -> None:
    before = full(pool)
    again = Pool(Paths(pool.driver.disks.parent), pool.name, pool.driver.name, pool.config)
    with pytest.raises(Conflict):
        again.create()
    assert backends.digest(pool.driver.path(C1)) == before


def test_pool_that_was_refused_is_deleted_without_harm(pool: Pool, tmp_path: Path) -> None:
    before = full(pool)
    source = pool.config["source"]
    if not Path(source).is_dir():
        pytest.skip("the source is a file of the pool's own")
    # What a daemon does that was killed before it had taken back the record of a refused pool.
    other = Pool(Paths(tmp_path / "other"), "other", pool.driver.name, {"source": source})
    with pytest.raises(Conflict):
        other.create()
    other.delete()
    assert backends.digest(pool.driver.path(C1)) == before
    other.driver.root.mkdir(parents=True)
    other.delete()
    assert backends.digest(pool.driver.path(C1)) == before
    assert not other.driver.root.exists()


def test_resources_are_those_of_the_file_system(pool: Pool) -> None:
    resources = pool.resources()
    assert 0 < resources.space_total <= backends.POOL_BYTES
    assert 0 < resources.space_used < resources.space_total


def test_source_of_a_pool_cannot_change(pool: Pool) -> None:
    with pytest.raises(BadRequest):
        pool.update({"source": "/elsewhere"})
    with pytest.raises(BadRequest):
        pool.update({"no.such.key": "1"})
    source = pool.config["source"]
    with pytest.raises(BadRequest):
        pool.update({"volume.size": "10MB"})
    assert pool.update({"source": source, "volume.size": "10MB"})["volume.size"] == "10MB"


# -- volumes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("volume", EVERYTHING, ids=str)
def test_create_and_delete(pool: Pool, volume: Volume) -> None:
    assert not pool.driver.has(volume)
    pool.create_volume(volume)
    assert pool.driver.has(volume)
    assert pool.driver.mount_volume(volume) == pool.driver.path(volume)
    assert pool.driver.path(volume).stat().st_mode & 0o777 == volume.mode
    assert names(pool, volume.type) == [volume.name]
    with pytest.raises(Conflict):
        pool.create_volume(volume)
    pool.driver.delete_volume(volume)
    pool.driver.delete_volume(volume)
    assert names(pool, volume.type) == []
    with pytest.raises(NotFound):
        pool.driver.mount_volume(volume)


def test_failing_filler_leaves_nothing(pool: Pool) -> None:
    def fail(tree: Path) -> None:
        backends.fill(tree)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        pool.create_volume(C1, fail)
    assert names(pool) == []


def test_copy_is_equal_and_independent(pool: Pool) -> None:
    before = full(pool)
    pool.driver.copy_volume(C2, C1)
    assert backends.digest(pool.driver.path(C2)) == before
    changed = change(pool, C2)
    assert changed != before
    assert backends.digest(pool.driver.path(C1)) == before
    with pytest.raises(Conflict):
        pool.driver.copy_volume(C2, C1)
    assert backends.digest(pool.driver.path(C2)) == changed


def test_copy_with_snapshots(pool: Pool) -> None:
    first = full(pool)
    pool.driver.create_snapshot(C1.at("s0"))
    second = change(pool, C1)
    pool.driver.create_snapshot(C1.at("s1"))
    pool.driver.copy_volume(C2, C1, ["s0", "s1"])
    assert names(pool) == ["c1", "c1/s0", "c1/s1", "p_c2", "p_c2/s0", "p_c2/s1"]
    assert backends.digest(pool.driver.mount_snapshot(C2.at("s0"))) == first
    assert backends.digest(pool.driver.mount_snapshot(C2.at("s1"))) == second
    pool.driver.copy_volume(C1.renamed("c3"), C1.at("s0"))
    assert backends.digest(pool.driver.path(C1.renamed("c3"))) == first


def test_copy_that_fails_leaves_nothing(pool: Pool) -> None:
    full(pool)
    pool.driver.create_snapshot(C1.at("s0"))
    with pytest.raises(NotFound):
        pool.driver.copy_volume(C2, C1, ["s0", "missing"])
    assert names(pool) == ["c1", "c1/s0"]


def test_refresh(pool: Pool) -> None:
    full(pool)
    pool.driver.copy_volume(C2, C1)
    changed = change(pool, C1)
    pool.driver.create_snapshot(C1.at("s0"))
    pool.driver.refresh_volume(C2, C1, ["s0"])
    assert backends.digest(pool.driver.path(C2)) == changed
    assert backends.digest(pool.driver.path(C2.at("s0"))) == changed


def test_rename_takes_the_snapshots_along(pool: Pool) -> None:
    before = full(pool)
    pool.driver.create_snapshot(C1.at("s0"))
    pool.create_volume(C2)
    with pytest.raises(Conflict):
        pool.driver.rename_volume(C1, C2.name)
    pool.driver.rename_volume(C1, "c9")
    assert names(pool) == ["c9", "c9/s0", "p_c2"]
    assert backends.digest(pool.driver.path(C1.renamed("c9"))) == before


def test_bad_names_never_reach_the_disk() -> None:
    for name in ("", "..", "a/b", "a\0b", ".hidden", "x" * 300):
        with pytest.raises(BadRequest):
            Volume(VolumeType.CONTAINER, name)
        with pytest.raises(BadRequest):
            C1.at(name)


def test_block_volume(pool: Pool) -> None:
    volume = Volume(VolumeType.CUSTOM, "default_b", None, ContentType.BLOCK, {"size": "8MiB"})
    pool.create_volume(volume)
    file = pool.driver.path(volume) / "root.img"
    assert file.stat().st_size == 8 * 1024**2
    assert pool.set_quota(volume, 16 * 1024**2)
    assert file.stat().st_size == 16 * 1024**2
    with pytest.raises(BadRequest):
        pool.set_quota(volume, 1024**2)


# -- images -------------------------------------------------------------------------------------


def test_image_is_unpacked_once_for_many_callers(pool: Pool) -> None:
    calls: list[Path] = []
    errors: list[BaseException] = []

    def filler(tree: Path) -> None:
        calls.append(tree)
        backends.fill(tree)

    def work(number: int) -> None:
        try:
            pool.create_from_image(Volume(VolumeType.CONTAINER, f"c{number}"), FINGERPRINT, filler)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert names(pool) == [f"c{number}" for number in range(6)]
    if pool.info.optimized_images:
        assert len(calls) == 1
        assert names(pool, VolumeType.IMAGE) == [FINGERPRINT]
        with pytest.raises(OSError) as caught:
            (pool.driver.path(IMAGE) / "rootfs/new").write_text("")
        assert caught.value.errno == errno.EROFS
    pool.drop_image(FINGERPRINT)
    pool.drop_image(FINGERPRINT)
    assert (pool.driver.path(C1) / "rootfs/etc/hostname").read_text() == "guest\n"


# -- snapshots ----------------------------------------------------------------------------------


@pytest.mark.parametrize("volume", EVERYTHING, ids=str)
def test_snapshot_and_restore(pool: Pool, volume: Volume) -> None:
    before = full(pool, volume)
    pool.driver.create_snapshot(volume.at("s0"))
    with pytest.raises(Conflict):
        pool.driver.create_snapshot(volume.at("s0"))
    changed = change(pool, volume)
    assert backends.digest(pool.driver.mount_snapshot(volume.at("s0"))) == before
    pool.driver.create_snapshot(volume.at("a-later-one"))
    pool.driver.restore_snapshot(volume.at("s0"))
    assert backends.digest(pool.driver.path(volume)) == before
    (pool.driver.path(volume) / "rootfs/writable").write_text("yes")
    pool.driver.restore_snapshot(volume.at("a-later-one"))
    assert backends.digest(pool.driver.path(volume)) == changed
    with pytest.raises(NotFound):
        pool.driver.restore_snapshot(volume.at("missing"))
    assert backends.digest(pool.driver.path(volume)) == changed


def test_snapshots_rename_delete_and_order(pool: Pool) -> None:
    full(pool)
    for name in ("zeta", "alpha", "mid"):
        pool.driver.create_snapshot(C1.at(name))
    assert names(pool) == ["c1", "c1/zeta", "c1/alpha", "c1/mid"]
    with pytest.raises(Conflict):
        pool.driver.rename_snapshot(C1.at("zeta"), "mid")
    pool.driver.rename_snapshot(C1.at("zeta"), "omega")
    pool.driver.delete_snapshot(C1.at("alpha"))
    pool.driver.delete_snapshot(C1.at("alpha"))
    assert sorted(names(pool)) == ["c1", "c1/mid", "c1/omega"]
    pool.driver.delete_volume(C1)
    assert names(pool) == []
    assert not list((pool.driver.root / "containers-snapshots").iterdir())


# -- size and space -----------------------------------------------------------------------------


def write_until_refused(path: Path, limit: int) -> int:
    """Write random data; returns how many bytes were taken before the kernel refused."""
    written = 0
    with path.open("wb", buffering=0) as file:
        try:
            while written < limit:
                written += file.write(os.urandom(1024**2))
                os.fsync(file.fileno())
        except OSError as exc:
            assert exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return written


def test_size_is_enforced_or_reported_as_not(pool: Pool) -> None:
    sized = Volume(VolumeType.CONTAINER, "c1", config={"size": "20MiB"})
    pool.create_volume(sized, backends.fill)
    enforced = pool.set_quota(sized, sized.size)
    assert enforced == pool.enforces_sizes(sized)
    if not enforced:
        assert pool.driver.usage(sized) is None
        return
    taken = write_until_refused(pool.driver.path(sized) / "rootfs/big", 40 * 1024**2)
    assert 8 * 1024**2 < taken < 20 * 1024**2
    used = pool.driver.usage(sized)
    assert used is not None
    assert 10 * 1024**2 < used <= 20 * 1024**2
    assert pool.driver.usages(VolumeType.CONTAINER) == {"c1": used}
    assert pool.set_quota(sized, 60 * 1024**2)
    assert (
        write_until_refused(pool.driver.path(sized) / "rootfs/big", 30 * 1024**2) >= 30 * 1024**2
    )
    assert pool.set_quota(sized, 0)
    # A copy and a restored snapshot have the limit that their configuration asks for.
    pool.driver.create_snapshot(sized.at("s0"))
    pool.driver.restore_snapshot(sized.at("s0"))
    with pytest.raises(BadRequest):
        pool.set_quota(sized, 1024**4)
    with pytest.raises(BadRequest):
        pool.create_volume(Volume(VolumeType.CUSTOM, "default_x", config={"size": "1TiB"}))


def test_limit_below_what_fills_the_volume(pool: Pool) -> None:
    sized = Volume(VolumeType.CONTAINER, "c1", config={"size": "4MiB"})
    if not pool.enforces_sizes(sized):
        pytest.skip("this pool does not enforce sizes")
    with pytest.raises(NoSpace):
        pool.create_volume(sized, lambda tree: write_all(tree / "big", 16))
    assert names(pool) == []


def write_all(path: Path, mebibytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            assert file.write(os.urandom(1024**2)) == 1024**2
        os.fsync(file.fileno())


def test_disk_full_leaves_nothing(pool: Pool) -> None:
    with pytest.raises(NoSpace):
        pool.create_volume(C1, lambda tree: write_all(tree / "big", 500))
    assert names(pool) == []
    # The space is there again, if need be once the file system's cleaner has come round.
    before = full(pool)
    assert backends.digest(pool.driver.path(C1)) == before


# -- streams ------------------------------------------------------------------------------------


def migrate(pool: Pool, kind: MigrationType, *snapshots: str) -> None:
    transfer, wire = Transfer(kind, snapshots), backends.Wire()
    errors: list[BaseException] = []

    def send() -> None:
        try:
            pool.driver.send(C1, transfer, wire)
        except BaseException as exc:
            errors.append(exc)

    sender = threading.Thread(target=send)
    sender.start()
    pool.driver.receive(C2, transfer, wire.far_end)
    sender.join()
    assert not errors


def test_every_way_of_migration(pool: Pool) -> None:
    full(pool)
    # rsync as LXD drives it keeps everything but which names are links of one file.
    (pool.driver.path(C1) / "rootfs/etc/hostname.link").unlink()
    first = backends.digest(pool.driver.path(C1))
    pool.driver.create_snapshot(C1.at("s0"))
    second = change(pool, C1)
    for kind in pool.driver.migration_types(ContentType.FILESYSTEM, refresh=False):
        migrate(pool, kind, "s0")
        assert names(pool) == ["c1", "c1/s0", "p_c2", "p_c2/s0"]
        assert backends.digest(pool.driver.path(C2)) == second
        assert backends.digest(pool.driver.path(C2.at("s0"))) == first
        (pool.driver.path(C2) / "rootfs/writable").write_text("yes")
        pool.driver.delete_volume(C2)


def test_peer_that_hangs_up_leaves_nothing(pool: Pool) -> None:
    full(pool)
    for kind in pool.driver.migration_types(ContentType.FILESYSTEM, refresh=False):
        wire = backends.Wire()
        for _ in range(3):
            with wire.stream() as stream:
                stream.sendall(b"nonsense")
        with pytest.raises(Exception):  # noqa: B017 - any error will do, as long as it is one
            pool.driver.receive(C2, Transfer(kind), wire.far_end)
        assert names(pool) == ["c1"]


def test_optimised_backup(pool: Pool, tmp_path: Path) -> None:
    first = full(pool)
    pool.driver.create_snapshot(C1.at("s0"))
    second = change(pool, C1)
    if not pool.info.optimized_backups:
        with pytest.raises(BadRequest):
            pool.driver.backup(C1, None, 1)
        return
    for volume, parent in ((C1.at("s0"), None), (C1, "s0")):
        with (tmp_path / f"{parent}.bin").open("wb") as out:
            pool.driver.backup(volume, parent, out.fileno())
    for volume, parent in ((C2.at("s0"), None), (C2, "s0")):
        with (tmp_path / f"{parent}.bin").open("rb") as source:
            pool.driver.restore_backup(volume, source.fileno())
    assert backends.digest(pool.driver.path(C2.at("s0"))) == first
    assert backends.digest(pool.driver.path(C2)) == second


@pytest.mark.parametrize("other", list(backends.BACKENDS))
def test_copy_to_another_pool(pool: Pool, other: str, tmp_path: Path) -> None:
    first = full(pool)
    pool.driver.create_snapshot(C1.at("s0"))
    second = change(pool, C1)
    told: list[str] = []
    with backends.pool(other, tmp_path / "second", "other") as target:
        target.copy_from(C2, pool, C1, ["s0"], told.append)
        assert told == ["c1/s0", "c1"]
        assert backends.digest(target.driver.path(C2)) == second
        assert backends.digest(target.driver.path(C2.at("s0"))) == first
        (pool.driver.path(C1) / "rootfs/later").write_text("later")
        target.refresh_from(C2, pool, C1)
        assert (target.driver.path(C2) / "rootfs/later").read_text() == "later"


# -- what a killed daemon leaves ------------------------------------------------------------------


def _make(pool: Pool) -> None:
    pool.create_volume(Volume(VolumeType.CONTAINER, "victim"), backends.fill)


def _copy(pool: Pool) -> None:
    pool.driver.copy_volume(Volume(VolumeType.CONTAINER, "victim"), C1)


def _snapshot(pool: Pool) -> None:
    pool.driver.create_snapshot(C1.at("victim"))


def _restore(pool: Pool) -> None:
    pool.driver.restore_snapshot(C1.at("s0"))


def _delete(pool: Pool) -> None:
    pool.driver.delete_volume(C2)


@pytest.mark.parametrize("verb", [_make, _copy, _snapshot, _restore, _delete])
def test_killed_in_the_middle(pool: Pool, verb: Callable[[Pool], None]) -> None:
    before = full(pool)
    pool.driver.create_snapshot(C1.at("s0"))
    pool.driver.copy_volume(C2, C1)
    victim = Volume(VolumeType.CONTAINER, "victim")
    for microseconds in (0, 300, 1000, 3000, 9000, 20000, 40000):
        killed_after(microseconds, lambda: verb(pool))
        again = Pool(Paths(pool.driver.disks.parent), pool.name, pool.driver.name, pool.config)
        again.mount()
        assert not list((pool.driver.root / STAGING).iterdir())
        for volume in again.driver.list_volumes(VolumeType.CONTAINER):
            if not (verb is _make and volume == victim):
                assert backends.digest(pool.driver.path(volume)) == before, str(volume)
        if pool.driver.has(victim):
            assert len(list((pool.driver.path(victim) / "rootfs").iterdir())) == 55
        pool.driver.delete_volume(victim)
        pool.driver.delete_snapshot(C1.at("victim"))
        if not pool.driver.has(C2):
            pool.driver.copy_volume(C2, C1)


def killed_after(microseconds: int, work: Callable[[], None]) -> None:
    """Run ``work`` in a child process that gets SIGKILL after a time."""
    import signal
    import time

    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(microseconds / 1e6)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_block_device_with_data_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    with file.open("xb") as out:
        out.truncate(backends.POOL_BYTES)
    with loop.attached(file) as device:
        first = Pool(Paths(tmp_path / "lxd"), "first", "btrfs", {"source": str(device)})
        config = first.create()
        assert config["volatile.initial_source"] == str(device)
        before = full(first)
        first.unmount()
        for source in (str(device), config["source"]):
            second = Pool(Paths(tmp_path / "lxd"), "second", "btrfs", {"source": source})
            with pytest.raises((BadRequest, Conflict)):
                second.create()
            assert not second.driver.root.exists()
        again = Pool(Paths(tmp_path / "lxd"), "first", "btrfs", config)
        again.mount()
        assert backends.digest(again.driver.path(C1)) == before
        again.delete()
        third = Pool(Paths(tmp_path / "lxd"), "third", "btrfs", {"source": str(device)})
        third.create()
        third.delete()


# -- btrfs only: what the driver says it does and nobody else has ---------------------------------


def test_loop_device_is_found_again_and_freed(tmp_path: Path) -> None:
    with backends.pool("btrfs-loop", tmp_path) as pool:
        file = pool.driver.disks / "pool.img"
        device = loop.find(file)
        assert device is not None
        with loop.attached(file) as again:
            assert again == device
        assert pool.update({**pool.config, "size": "600MiB"})["size"] == "600MiB"
        assert pool.resources().space_total == 600 * 1024**2
        with pytest.raises(BadRequest):
            pool.update({**pool.config, "size": "300MiB"})
        pool.unmount()
        assert loop.find(file) is None


@pytest.mark.parametrize("backend", ["btrfs-loop", "btrfs-directory"])
def test_nested_subvolumes_go_along(backend: str, tmp_path: Path) -> None:
    from nova_lxd.lxd.storage.drivers import btrfs_ioctl

    with backends.pool(backend, tmp_path) as pool:
        full(pool)
        root = pool.driver.path(C1) / "rootfs"
        (root / "var").mkdir()
        btrfs_ioctl.create_subvolume(root / "var/docker")
        btrfs_ioctl.create_subvolume(root / "var/docker/layer")
        (root / "var/docker/layer/data").write_text("deep")
        btrfs_ioctl.set_readonly(root / "var/docker/layer", True)
        (root / "etc/hostname.link").unlink()
        before = backends.digest(pool.driver.path(C1))
        pool.driver.create_snapshot(C1.at("s0"))
        (root / "var/docker/later").write_text("later")
        pool.driver.restore_snapshot(C1.at("s0"))
        assert backends.digest(pool.driver.path(C1)) == before
        pool.driver.copy_volume(C2, C1, ["s0"])
        assert backends.digest(pool.driver.path(C2)) == before
        pool.driver.delete_volume(C2)
        for kind in pool.driver.migration_types(ContentType.FILESYSTEM, refresh=False):
            migrate(pool, kind, "s0")
            assert backends.digest(pool.driver.path(C2)) == before
            pool.driver.delete_volume(C2)
        pool.driver.delete_volume(C1)
        assert names(pool) == []
