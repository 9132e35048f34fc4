# SPDX-License-Identifier: Apache-2.0
"""The confined helper process that unpacks one archive into one directory.

``python -P -m nova_lxd.lxd.storage.unpack_child``: its argument is a JSON :class:`Order`, its
standard input the archive.  Exit code 0: done; :data:`REFUSED`: the archive is bad, the reason is
on standard output; else the last words are on standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import stat
import subprocess
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from nova_lxd.lxd.storage.archive_rules import Entry, Limits, Refused, Rules
from nova_lxd.lxd.storage.confine import die_with_parent, drop_powers

REFUSED = 10
_BUFFER = 1 << 20
# Bounds what a pax header of any size can make tarfile allocate.
_SCANNER_MEMORY = 1 << 30

_TAR = [
    "tar", "--extract", "--file=-", "--numeric-owner", "--same-owner", "--same-permissions",
    "--xattrs", "--xattrs-include=*", "--acls", "--delay-directory-restore", "--restrict",
]  # fmt: skip
_LISTED = re.compile(
    rb"([-dlcbps])\S{9} +\d+/\d+ +(?:(\d+), *(\d+)|(\d+)) \S+ \S+ squashfs-root(?:/(.*))?"
)
_KINDS = {
    b"-": stat.S_IFREG, b"d": stat.S_IFDIR, b"l": stat.S_IFLNK, b"c": stat.S_IFCHR,
    b"b": stat.S_IFBLK, b"p": stat.S_IFIFO, b"s": stat.S_IFSOCK,
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What to do.

    ``decompress`` is the program in front of tar (empty for none), ``squashfs`` the path of a
    squashfs file (empty for a tar archive), ``image`` as in :class:`Rules`, ``parent`` the process
    without which nobody wants the result.
    """

    target: str
    decompress: list[str]
    squashfs: str
    image: bool
    max_bytes: int
    max_entries: int
    any_device: bool
    parent: int

    def encode(self) -> str:
        return json.dumps(asdict(self))

    def rules(self) -> Rules:
        return Rules(Limits(self.max_bytes, self.max_entries, self.any_device), self.image)


class _Tee:
    """A file whose readers see what is passed on to another one."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source = source
        self._sink: IO[bytes] | None = sink

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        if self._sink is not None:
            try:
                self._sink.write(data)
            except BrokenPipeError:  # tar has ended: its exit code says why
                self._sink = None
        return data

    def drain(self, limit: int) -> None:
        """Pass the rest on: tar reads to the end of its pipe."""
        while data := self.read(_BUFFER):
            limit -= len(data)
            if limit < 0:
                raise Refused("it is too large once decompressed")


def _entry(member: tarfile.TarInfo) -> Entry:
    kinds = {
        tarfile.DIRTYPE: stat.S_IFDIR,
        tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.CHRTYPE: stat.S_IFCHR,
        tarfile.BLKTYPE: stat.S_IFBLK,
        tarfile.FIFOTYPE: stat.S_IFIFO,
        tarfile.LNKTYPE: 0,
    }
    return Entry(
        member.name,
        kinds.get(member.type, stat.S_IFREG),
        max(0, member.size),
        member.linkname,
        (member.devmajor, member.devminor),
    )


def _scan(source: _Tee, rules: Rules, limit: int) -> None:
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER) as archive:  # type: ignore[call-overload]
            for member in archive:
                rules.check(_entry(member))
                archive.members = []  # tarfile would keep them all
    except (tarfile.TarError, EOFError, MemoryError, ValueError, UnicodeError) as exc:
        raise Refused(f"it is damaged: {exc}") from exc
    source.drain(limit)


def _unpack_tar(order: Order) -> int:
    with subprocess.Popen(
        [*_TAR, "-C", order.target], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as tar:
        assert tar.stdin is not None
        try:
            code = _feed(order, tar.stdin)
        except BaseException:
            tar.kill()
            raise
        with contextlib.suppress(BrokenPipeError):  # its exit code says why
            tar.stdin.close()
        return tar.wait() or code


def _feed(order: Order, sink: IO[bytes]) -> int:
    if not order.decompress:
        _limit_memory()
        _scan(_Tee(sys.stdin.buffer, sink), order.rules(), order.max_bytes)
        return 0
    with subprocess.Popen(order.decompress, stdin=0, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        _limit_memory()
        try:
            _scan(_Tee(program.stdout, sink), order.rules(), order.max_bytes)
        except BaseException:
            program.kill()
            raise
        if program.wait():
            raise Refused(f"its compressed data are damaged ({order.decompress[0]} failed)")
    return 0


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_SCANNER_MEMORY, _SCANNER_MEMORY))


def _unpack_squashfs(order: Order) -> int:
    rules = order.rules()
    listing = ["unsquashfs", "-lln", order.squashfs]
    with subprocess.Popen(listing, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        for line in program.stdout:
            found = _LISTED.match(line.rstrip(b"\n"))
            # A line feed in a name splits its line; the entry stands in the first part.
            if found is not None:
                rules.check(_listed_entry(found))
        if program.wait():
            raise Refused("it is no readable squashfs file")
    # exec keeps the death signal: unsquashfs goes when the daemon goes.
    os.execvp("unsquashfs", ["unsquashfs", "-f", "-n", "-q", "-d", order.target, order.squashfs])


def _listed_entry(found: re.Match[bytes]) -> Entry:
    name, _, link = os.fsdecode(found[5] or b"").partition(" -> ")
    kind = _KINDS[found[1]]
    return Entry(
        name,
        kind,
        int(found[4] or 0) if kind == stat.S_IFREG else 0,
        link,
        (int(found[2] or 0), int(found[3] or 0)),
    )


def main() -> int:
    die_with_parent()
    fields: dict[str, Any] = json.loads(sys.argv[1])
    order = Order(**fields)
    if os.getppid() != order.parent:
        return 1  # the daemon ended before the death signal was asked for
    os.umask(0)
    drop_powers([Path(order.target)])
    try:
        return _unpack_squashfs(order) if order.squashfs else _unpack_tar(order)
    except Refused as exc:
        sys.stdout.buffer.write(str(exc).encode("utf-8", "backslashreplace"))
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
