# SPDX-License-Identifier: Apache-2.0
"""Unpack image archives that nobody vouches for into a directory.

A helper process without the daemon's powers does the work (:mod:`.unpack_child`): GNU tar and
unsquashfs keep owners, ACLs and attributes (file capabilities); names, links, devices and sizes
are checked while the archive streams by.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nova_lxd
from nova_lxd.lxd.errors import BadRequest, InternalError, NoSpace
from nova_lxd.lxd.host.run import run
from nova_lxd.lxd.storage.archive_rules import Limits
from nova_lxd.lxd.storage.copying import LONG
from nova_lxd.lxd.storage.drivers.generic import is_full
from nova_lxd.lxd.storage.inside import need_directory
from nova_lxd.lxd.storage.unpack_child import REFUSED, Order
from nova_lxd.lxd.storage.volume import ROOTFS

__all__ = ["Limits", "unpack_archive", "unpack_image"]

_PACKAGE_PARENT = str(Path(nova_lxd.__path__[0]).parent)
_SQUASHFS = b"hsqs"
# Magic bytes and the program that undoes the compression.
_COMPRESSIONS: tuple[tuple[bytes, list[str]], ...] = (
    (b"\x1f\x8b", ["gzip", "-dc"]),
    (b"BZh", ["bzip2", "-dc"]),
    (b"\xfd7zXZ\x00", ["xz", "-dc", "-T0", "--memlimit-decompress=1GiB"]),
    (b"\x5d\x00\x00", ["xz", "-dc", "--format=lzma", "--memlimit-decompress=1GiB"]),
    (b"\x28\xb5\x2f\xfd", ["zstd", "-dcq", "--memory=512MB"]),
    (b"\x04\x22\x4d\x18", ["lz4", "-dcq"]),
)
_TAR_MAGIC_OFFSET, _TAR_MAGIC = 257, b"ustar"


def _order(archive: Path, target: Path, image: bool, limits: Limits) -> Order:
    with archive.open("rb") as file:
        head = file.read(512)
    decompress: list[str] = []
    squashfs = ""
    if head.startswith(_SQUASHFS):
        squashfs = str(archive)
    else:
        decompress = next((argv for magic, argv in _COMPRESSIONS if head.startswith(magic)), [])
        if not decompress and head[_TAR_MAGIC_OFFSET:].startswith(_TAR_MAGIC) is False:
            raise BadRequest("Unpacking the image failed: it is neither a tar nor a squashfs file")
    return Order(
        target=str(target),
        decompress=decompress,
        squashfs=squashfs,
        image=image,
        max_bytes=limits.max_bytes,
        max_entries=limits.max_entries,
        any_device=limits.any_device,
        parent=os.getpid(),
    )


def unpack_archive(
    archive: Path, target: Path, limits: Limits | None = None, *, image: bool = False
) -> None:
    """Unpack a tar file (plain, gz, bz2, xz, lzma, zst, lz4) or squashfs into a directory.

    What a failure leaves in the directory is the caller's to remove (a volume's filler is undone).

    :param limits: what the archive may hold; devices only for privileged containers.
    :param image: it is a unified image or the metadata of a split one, not a bare root tree.
    :raises BadRequest: the archive is damaged or holds what it may not.
    :raises NoSpace: the pool or the volume's size is too small for it.
    """
    order = _order(archive, target, image, limits or Limits())
    argv = [sys.executable, "-P", "-s", "-m", "nova_lxd.lxd.storage.unpack_child", order.encode()]
    with archive.open("rb") as source:
        done = run(
            argv, stdin=source, env={"PYTHONPATH": _PACKAGE_PARENT}, timeout=LONG, check=False
        )
    if done.returncode == 0:
        return
    if is_full(target):
        raise NoSpace("Unpacking the image failed: the pool or the volume's size limit is full")
    if done.returncode == REFUSED:
        raise BadRequest(f"Unpacking the image failed: {done.text}")
    said = " ".join(done.stderr.split())[-300:]
    if done.returncode > 0:
        raise BadRequest(f"Unpacking the image failed: the archive cannot be unpacked: {said}")
    raise InternalError(f"Unpacking the image failed: the helper process was killed: {said}")


def unpack_image(
    metadata: Path, rootfs: Path | None, target: Path, limits: Limits | None = None
) -> None:
    """Fill a volume from an image: a unified one, or split into metadata and root tree.

    :raises BadRequest: as :func:`unpack_archive`, or the image has no root tree.
    """
    unpack_archive(metadata, target, limits, image=True)
    tree = target / ROOTFS
    if rootfs is not None:
        if os.path.lexists(tree):
            raise BadRequest("Unpacking the image failed: its metadata file has a rootfs too")
        tree.mkdir(mode=0o755)
        unpack_archive(rootfs, tree, limits)
    need_directory(target, ROOTFS, "Unpacking the image")
