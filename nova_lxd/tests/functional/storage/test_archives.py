# SPDX-License-Identifier: Apache-2.0
"""Image archives, good and hostile, through the confined helper process."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest, NoSpace
from nova_lxd.lxd.storage import pack
from nova_lxd.lxd.storage.drivers.generic import STAGING
from nova_lxd.lxd.storage.unpack import Limits, unpack_archive, unpack_image
from nova_lxd.lxd.storage.volume import Volume, VolumeType
from nova_lxd.tests.functional.storage import backends

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="keeps owners and device nodes")

WHOLE = ("metadata.yaml", "rootfs")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with the tree of an image."""
    made = tmp_path / "tree"
    made.mkdir()
    backends.fill(made)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    "algorithm", ["none", "gzip", "bzip2", "xz", "lzma", "zstd", "lz4", "squashfs", "gzip -9"]
)
def test_round_trip(algorithm: str, tree: Path, target: Path, tmp_path: Path) -> None:
    archive = tmp_path / f"image{pack.suffix(algorithm)}"
    with archive.open("wb") as out:
        pack.write([pack.Source(tree, WHOLE)], algorithm, out, tmp_path)
    unpack_image(archive, None, target)
    assert tolerant(backends.digest(target)) == tolerant(backends.digest(tree))
    assert (target / "rootfs/holes").stat().st_blocks * 512 < 1024**2


def tolerant(lines: list[str]) -> list[str]:
    """squashfs knows whole seconds only."""
    return [line.replace("1600000000123456789", "1600000000000000000") for line in lines]


def test_split_image(tree: Path, target: Path, tmp_path: Path) -> None:
    metadata, rootfs = tmp_path / "meta.tar.xz", tmp_path / "root.squashfs"
    with metadata.open("wb") as out:
        pack.write([pack.Source(tree, ("metadata.yaml",))], "xz", out)
    with rootfs.open("wb") as out:
        entries = tuple(os.listdir(tree / "rootfs"))
        pack.write([pack.Source(tree / "rootfs", entries)], "squashfs", out, tmp_path)
    unpack_image(metadata, rootfs, target)
    assert tolerant(backends.digest(target)) == tolerant(backends.digest(tree))


def test_entries_of_several_directories(tree: Path, target: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metadata.yaml").write_text("other: true\n")
    with (tmp_path / "i.tar").open("wb") as out:
        sources = [pack.Source(other, ("metadata.yaml",)), pack.Source(tree, ("rootfs",))]
        pack.write(sources, "none", out)
    with tarfile.open(tmp_path / "i.tar") as archive:
        assert archive.getnames()[:2] == ["metadata.yaml", "rootfs"]
    unpack_image(tmp_path / "i.tar", None, target)
    assert (target / "metadata.yaml").read_text() == "other: true\n"


def test_missing_entry_is_an_error(tree: Path) -> None:
    with pytest.raises(Exception, match="tar"):
        pack.write([pack.Source(tree, ("nothing",))], "none", io.BytesIO())


@pytest.mark.parametrize(
    "algorithm", ["rar", "", "gzip /etc/passwd", "gzip -", "xz '", "zstd --output-dir-flat=/x"]
)
def test_bad_algorithm(algorithm: str) -> None:
    with pytest.raises(BadRequest):
        pack.check_algorithm(algorithm)


# -- hostile ------------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    return info


def device(name: str, kind: bytes, major: int, minor: int) -> tarfile.TarInfo:
    info = member(name, kind)
    info.devmajor, info.devminor = major, minor
    return info


HOSTILE: dict[str, Callable[[str], list[tarfile.TarInfo]]] = {
    "absolute": lambda out: [member(f"{out}/absolute")],
    "dot-dot": lambda out: [member("rootfs/../../outside/dot-dot")],
    "symlink-absolute": lambda out: [
        member("rootfs/x", tarfile.SYMTYPE, out),
        member("rootfs/x/through"),
    ],
    "symlink-relative": lambda out: [
        member("rootfs/x", tarfile.SYMTYPE, "../../outside"),
        member("rootfs/x/through"),
    ],
    "hardlink-absolute": lambda out: [member("rootfs/h", tarfile.LNKTYPE, f"{out}/secret")],
    "hardlink-dot-dot": lambda out: [
        member("rootfs/h", tarfile.LNKTYPE, "../outside/secret"),
    ],
    "metadata-link": lambda out: [member("metadata.yaml", tarfile.SYMTYPE, f"{out}/secret")],
    "rootfs-link": lambda out: [member("rootfs", tarfile.SYMTYPE, out)],
    "block-device": lambda out: [device("rootfs/dev/sda", tarfile.BLKTYPE, 8, 0)],
    "memory-device": lambda out: [device("rootfs/dev/mem", tarfile.CHRTYPE, 1, 1)],
    "no-rootfs": lambda out: [member("metadata.yaml")],
}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the target that must not be touched."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "secret").write_text("secret")
    yield made
    assert os.listdir(made) == ["secret"]
    assert (made / "secret").stat().st_nlink == 1


@pytest.mark.parametrize("attack", list(HOSTILE))
def test_hostile_archive_makes_no_volume(attack: str, tmp_path: Path, outside: Path) -> None:
    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as out:
        for info in HOSTILE[attack](str(outside)):
            out.addfile(info)
    with backends.pool("btrfs-loop", tmp_path / "pool") as pool:
        volume = Volume(VolumeType.CONTAINER, "c1")
        with pytest.raises(BadRequest):
            pool.create_volume(volume, lambda place: unpack_image(archive, None, place))
        assert not pool.driver.has(volume)


def test_parts_of_an_image_may_have_a_leading_slash(target: Path, tmp_path: Path) -> None:
    """pylxd's own test image is built like that, and tar drops the slash."""
    archive = tmp_path / "slashes.tar"
    with tarfile.open(archive, "w") as out:
        for name in ("metadata.yaml", "/templates/a.tpl", "/rootfs/etc/inittab"):
            out.addfile(member(name))
    unpack_image(archive, None, target)
    assert (target / "rootfs/etc/inittab").is_file()
    assert (target / "templates/a.tpl").is_file()


ESCAPE = """
import subprocess, sys
from pathlib import Path
from nova_lxd.lxd.storage.confine import drop_powers

target, outside = map(Path, sys.argv[1:])
drop_powers([target])
(target / "inside").write_text("yes")
for words in (
    "touch made", "mkdir made", "truncate -s 1 secret", "ln secret made", "rm secret",
    "mount -t tmpfs x .", f"ln secret {target}/stolen",
):
    if subprocess.run(words.split(), cwd=outside, capture_output=True).returncode == 0:
        sys.exit(f"it could: {words}")
"""


def test_confinement_alone_holds(target: Path, outside: Path) -> None:
    """Were the rules blind, what runs confined could still not write beside the target."""
    done = subprocess.run(
        [sys.executable, "-c", ESCAPE, str(target), str(outside)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (target / "inside").read_text() == "yes"


def test_archive_cannot_open_the_volume_to_others(tmp_path: Path) -> None:
    archive = tmp_path / "open.tar"
    with tarfile.open(archive, "w") as out:
        top = member(".", tarfile.DIRTYPE)
        top.mode, top.uid = 0o777, 1000
        out.addfile(top)
        out.addfile(member("rootfs", tarfile.DIRTYPE))
    with backends.pool("btrfs-loop", tmp_path / "pool") as pool:
        volume = Volume(VolumeType.CONTAINER, "c1")
        pool.create_volume(volume, lambda place: unpack_image(archive, None, place))
        status = pool.driver.path(volume).stat()
        assert (status.st_mode & 0o7777, status.st_uid) == (0o100, 0)


def test_bomb_is_stopped(tmp_path: Path, target: Path) -> None:
    archive = tmp_path / "bomb.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        info = member("rootfs/zeros")
        info.size = 64 * 1024**2
        out.addfile(info, io.BytesIO(bytes(info.size)))
    assert archive.stat().st_size < 1024**2
    with pytest.raises(BadRequest, match="more than 1000000 bytes"):
        unpack_image(archive, None, target, Limits(max_bytes=1_000_000))


def test_endless_zeros_after_the_archive(tmp_path: Path, target: Path) -> None:
    archive = tmp_path / "tail.tar"
    with tarfile.open(archive, "w") as out:
        out.addfile(member("rootfs", tarfile.DIRTYPE))
    subprocess.run(["truncate", "-s", "64M", str(archive)], check=True)
    subprocess.run(["gzip", "-1", str(archive)], check=True)
    with pytest.raises(BadRequest, match="too large"):
        unpack_image(Path(f"{archive}.gz"), None, target, Limits(max_bytes=1024**2))


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\x1f\x8b garbage", b"hsqs garbage"])
def test_garbage(content: bytes, tmp_path: Path, target: Path) -> None:
    archive = tmp_path / "garbage"
    archive.write_bytes(content)
    with pytest.raises(BadRequest):
        unpack_image(archive, None, target)


@pytest.mark.parametrize("algorithm", ["none", "gzip", "xz", "zstd", "squashfs"])
def test_cut_short(algorithm: str, tree: Path, target: Path, tmp_path: Path) -> None:
    archive = tmp_path / "image"
    with archive.open("wb") as out:
        pack.write([pack.Source(tree, WHOLE)], algorithm, out, tmp_path)
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(BadRequest):
        unpack_image(archive, None, target)


@pytest.mark.parametrize("algorithm", ["none", "squashfs"])
def test_hostile_squashfs_and_tar_with_device(
    algorithm: str, tree: Path, target: Path, tmp_path: Path
) -> None:
    os.mknod(tree / "rootfs/sda", 0o60660, os.makedev(8, 0))
    archive = tmp_path / "image"
    with archive.open("wb") as out:
        pack.write([pack.Source(tree, WHOLE)], algorithm, out, tmp_path)
    with pytest.raises(BadRequest, match="device node"):
        unpack_image(archive, None, target)
    unpack_archive(archive, target, Limits(any_device=True), image=True)
    assert (target / "rootfs/sda").is_block_device()


@pytest.mark.parametrize("algorithm", ["none", "gzip", "squashfs"])
def test_pool_too_small_for_the_image(algorithm: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "rootfs").mkdir(parents=True)
    (tree / "rootfs/big").write_bytes(os.urandom(24 * 1024**2))
    archive = tmp_path / "image"
    with archive.open("wb") as out:
        pack.write([pack.Source(tree, ("rootfs",))], algorithm, out, tmp_path)
    with backends.pool("btrfs-loop", tmp_path / "pool") as pool:
        volume = Volume(VolumeType.CONTAINER, "c1", config={"size": "10MiB"})
        with pytest.raises(NoSpace):
            pool.create_volume(volume, lambda place: unpack_image(archive, None, place))
        assert not pool.driver.has(volume)


def test_full_disk_is_told_when_packing(tree: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as out, pytest.raises(OSError) as caught:
        pack.write([pack.Source(tree, WHOLE)], "none", out)
    assert caught.value.errno == errno.ENOSPC


def test_helper_ends_with_the_daemon(tmp_path: Path) -> None:
    """Killed amid unpacking, the daemon leaves no process and, after its start, no tree."""
    tree = tmp_path / "tree"
    (tree / "rootfs").mkdir(parents=True)
    for number in range(40):
        (tree / f"rootfs/{number}").write_bytes(os.urandom(1024**2))
    archive = tmp_path / "image"
    with archive.open("wb") as out:
        pack.write([pack.Source(tree, ("rootfs",))], "gzip", out)
    with backends.pool("btrfs-loop", tmp_path / "pool") as pool:
        staging = pool.driver.root / STAGING
        volume = Volume(VolumeType.CONTAINER, "c1")
        child = os.fork()
        if child == 0:
            pool.create_volume(volume, lambda place: unpack_image(archive, None, place))
            os._exit(0)
        deadline = time.monotonic() + 30
        while not list(staging.glob("*/rootfs/*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pool.mount()
        time.sleep(0.3)
        assert not list(staging.iterdir())
        assert not pool.driver.has(volume)
        assert not [
            words
            for words in Path("/proc").glob("[0-9]*/cmdline")
            if os.fsencode(staging) in read_if_there(words)
        ]


def read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
