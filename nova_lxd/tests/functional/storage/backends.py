# SPDX-License-Identifier: Apache-2.0
"""The list of pools that the contract test runs on, and a tree to fill volumes with."""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.storage.pool import Pool

POOL_BYTES = 384 * 1024**2
WRITTEN = 1_600_000_000_123_456_789


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@contextmanager
def loop_mounted(directory: Path, fstype: str, options: str = "loop") -> Iterator[Path]:
    """A small file system of a kind in a file, mounted while the block runs."""
    image, place = directory / f"{fstype}.img", directory / fstype
    with image.open("xb") as file:
        file.truncate(POOL_BYTES)
    _run(f"mkfs.{fstype}", "-q", str(image))
    place.mkdir()
    _run("mount", "-o", options, str(image), str(place))
    try:
        shutil.rmtree(place / "lost+found", ignore_errors=True)
        yield place
    finally:
        _run("umount", str(place))
        image.unlink()


def pool_on_dir(directory: Path, stack: ExitStack) -> tuple[str, dict[str, str]]:
    return "dir", {"source": str(stack.enter_context(loop_mounted(directory, "ext4")))}


def pool_on_btrfs_loop(directory: Path, stack: ExitStack) -> tuple[str, dict[str, str]]:
    return "btrfs", {"size": f"{POOL_BYTES}B"}


def pool_on_btrfs_directory(directory: Path, stack: ExitStack) -> tuple[str, dict[str, str]]:
    place = stack.enter_context(loop_mounted(directory, "btrfs"))
    (place / "below").mkdir()
    return "btrfs", {"source": str(place / "below")}


#: Every storage driver, on each kind of source it can have.
BACKENDS: dict[str, Callable[[Path, ExitStack], tuple[str, dict[str, str]]]] = {
    "dir": pool_on_dir,
    "btrfs-loop": pool_on_btrfs_loop,
    "btrfs-directory": pool_on_btrfs_directory,
}


@contextmanager
def pool(backend: str, directory: Path, name: str = "pool") -> Iterator[Pool]:
    """A pool of a backend, made for the block and gone after it."""
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        driver, config = BACKENDS[backend](directory, stack)
        made = Pool(Paths(directory / "lxd"), name, driver, config)
        made.create()
        stack.callback(made.delete)
        yield made


def fill(tree: Path) -> None:
    """An instance's volume with everything a file system knows: links, holes, ids, attributes."""
    (tree / "metadata.yaml").write_text("architecture: x86_64\n")
    root = tree / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("guest\n")
    os.link(root / "etc/hostname", root / "etc/hostname.link")
    (root / "etc/absolute").symlink_to("/etc/hostname")
    (root / "bin").mkdir()
    tool = root / "bin/ping"
    tool.write_bytes(b"#!" + os.urandom(5000))
    os.chown(tool, 1000, 2000)
    tool.chmod(0o4755)
    # cap_net_raw+ep, version 2
    os.setxattr(tool, "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    os.setxattr(root / "etc", "user.note", b"kept")
    os.mkfifo(root / "fifo", 0o600)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with (root / "holes").open("wb") as file:
        file.truncate(8 * 1024**2)
        file.seek(4 * 1024**2)
        file.write(b"middle")
    for number in range(50):
        (root / f"file-{number}").write_bytes(os.urandom(20_000))
    for path in tree.rglob("*"):
        # In the past: rsync takes special files of the same second for equal.
        os.utime(path, ns=(WRITTEN, WRITTEN), follow_symlinks=False)


def digest(tree: Path) -> list[str]:
    """What stands in a tree, a line each: names, kinds, modes, owners, attributes, links, data."""
    seen: dict[tuple[int, int], str] = {}
    lines: list[str] = []
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(tree))
        kind = stat.S_IFMT(status.st_mode)
        line: list[object] = [name, status.st_mode, status.st_uid, status.st_gid]
        line.append(status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
        line.append(status.st_mtime_ns if kind != stat.S_IFDIR else 0)
        if kind == stat.S_IFLNK:
            line.append(os.readlink(path))
        else:
            line += [(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))]
        if kind == stat.S_IFREG:
            line.append(hashlib.sha256(path.read_bytes()).hexdigest())
            if status.st_nlink > 1:
                line.append(seen.setdefault((status.st_dev, status.st_ino), name))
        lines.append(repr(line))
    return lines


class Wire:
    """Both ends of a migration in one process: what one side opens the other one gets."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[socket.socket] = queue.Queue()

    def stream(self) -> socket.socket:
        """The sender's next stream."""
        mine, theirs = socket.socketpair()
        self._waiting.put(theirs)
        return mine

    @property
    def far_end(self) -> Wire:
        return _FarEnd(self._waiting)


class _FarEnd(Wire):
    def __init__(self, waiting: queue.Queue[socket.socket]) -> None:
        self._waiting = waiting

    def stream(self) -> socket.socket:
        return self._waiting.get(timeout=30)
