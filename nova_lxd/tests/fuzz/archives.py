# SPDX-License-Identifier: Apache-2.0
"""Archives made of fuzzed entries, checked as the daemon does, then unpacked by GNU tar.

Whatever the checks let pass must stay inside: nothing beside the target may appear or change, and
outside an image's rootfs there may be plain files and directories only.  The process gives up the
right to write anywhere else first, so that a find does not hurt the machine.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nova_lxd.lxd.storage import unpack_child
from nova_lxd.lxd.storage.archive_rules import Limits, Refused, Rules
from nova_lxd.lxd.storage.confine import only_write_below

_NAMES = ("a", "b", "rootfs", "templates", "metadata.yaml", "..", ".", "", "a/b", "../beside")
_KINDS = (
    tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
    tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE,
)  # fmt: skip
_MOST_ENTRIES = 12
_LIMITS = Limits(max_bytes=1 << 16, max_entries=100)
_CANARY = b"untouched"


@functools.cache
def _scratch() -> Path:
    """The only directory that this process may write to from now on."""
    top = Path(tempfile.gettempdir())  # the fuzzer's scratch directory, for its finds, too
    path = Path(tempfile.mkdtemp(prefix="unpacked", dir=top))
    if not only_write_below([top]):
        raise RuntimeError("fuzzing of unpacking needs a kernel with Landlock")
    return path


def _path(data: Iterator[int]) -> str:
    parts = [_NAMES[next(data) % len(_NAMES)] for _ in range(1 + next(data) % 4)]
    return "/".join(parts)


def build(data: bytes) -> bytes:
    """The tar archive that the bytes describe: kind, name and link of each entry."""
    numbers = iter(data)
    file = io.BytesIO()
    with (
        contextlib.suppress(StopIteration),
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for _ in range(_MOST_ENTRIES):
            member = tarfile.TarInfo(_path(numbers) or "a")
            member.type = _KINDS[next(numbers) % len(_KINDS)]
            member.mode = 0o755
            if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member.linkname = _path(numbers)
            if member.type == tarfile.CHRTYPE:
                member.devmajor, member.devminor = 1, next(numbers) % 12
            content = b""
            if member.isreg() and member.type != tarfile.GNUTYPE_SPARSE:
                content = bytes([next(numbers)]) * 3
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def unpack(data: bytes) -> None:
    """Check and unpack; AssertionError when anything got out of its place."""
    if len(data) < 2:
        return
    image, raw = bool(data[0] & 1), bool(data[0] & 2)
    archive = data[1:] if raw else build(data[1:])
    top = Path(tempfile.mkdtemp(dir=_scratch()))
    try:
        target = top / "target"
        target.mkdir()
        for canary in (top / "beside", top / "a"):
            canary.write_bytes(_CANARY)
        before = _seen(top, target)
        if _accepted(archive, target, image):
            _check_kinds(target, image)
        assert _seen(top, target) == before, "something beside the target changed"
    finally:
        shutil.rmtree(top)


def _accepted(archive: bytes, target: Path, image: bool) -> bool:
    with subprocess.Popen(
        [*unpack_child._TAR, "-C", str(target)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tar:
        assert tar.stdin is not None
        try:
            source = unpack_child._Tee(io.BytesIO(archive), tar.stdin)
            unpack_child._scan(source, Rules(_LIMITS, image), 1 << 20)
        except Refused:
            tar.kill()
            return False
        finally:
            with contextlib.suppress(BrokenPipeError):
                tar.stdin.close()
        return tar.wait() == 0


def _seen(top: Path, target: Path) -> dict[str, tuple[int, int, bytes]]:
    """What is beside the target: kind, owner and content."""
    found = {}
    for path in top.iterdir():
        if path != target:
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[path.name] = (status.st_mode, status.st_uid, content)
    return found


def _check_kinds(target: Path, image: bool) -> None:
    for directory, names, files in os.walk(target):
        for name in (*names, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            assert not stat.S_ISBLK(mode), f"{path} is a block device"
            if stat.S_ISCHR(mode):
                assert path.lstat().st_rdev >> 8 in (1, 5), f"{path} is a device"
            if not image:
                continue
            inner = path.relative_to(target).parts
            if inner[0] != "rootfs" or len(inner) == 1:
                assert stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and inner[0] != "rootfs"), path
