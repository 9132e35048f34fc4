# SPDX-License-Identifier: Apache-2.0
"""What an image archive may hold: rules about names, links, devices and sizes, without unpacking.

Imports nothing of the package, because the confined helper process uses it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

# The character devices of a plain /dev, as debootstrap makes them: null, zero, full, random,
# urandom, tty, console, ptmx.
_HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)}
_MOST_LINKS = 40
_PATH_MAX = 4096
_NAME_SHOWN = 80


class Refused(Exception):
    """The archive breaks a rule; the text says which, as the end of a sentence."""


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to, and whether any device node may be in it.

    Device nodes other than the harmless ones of /dev are for privileged containers only.
    """

    max_bytes: int = 1 << 42
    max_entries: int = 5_000_000
    any_device: bool = False


@dataclass(frozen=True)
class Entry:
    """One entry: ``kind`` is the file type of a mode (``stat.S_IFREG`` …), 0 for a hard link."""

    name: str
    kind: int
    size: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)


def _shown(name: str) -> str:
    return repr(name[:_NAME_SHOWN])


def _split(name: str, what: str) -> tuple[str, ...]:
    """The parts of a relative path without ``.``; Refused when it leads out."""
    if name.startswith("/"):
        raise Refused(f"{what} {_shown(name)} is an absolute path")
    if len(name) > _PATH_MAX or "\0" in name:
        raise Refused(f"{what} {_shown(name)} is no valid path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise Refused(f"{what} {_shown(name)} leads out of the archive")
    return parts


@dataclass
class Rules:
    """Checks the entries of one archive in their order.

    :param image: the archive is laid out as an image (metadata.yaml, templates, rootfs): outside
        rootfs there may be plain files and directories only, because the daemon reads them.
    """

    limits: Limits
    image: bool
    _links: dict[tuple[str, ...], str] = field(default_factory=dict)
    _entries: int = 0
    _bytes: int = 0

    def check(self, entry: Entry) -> None:
        """:raises Refused: the entry breaks a rule."""
        self._entries += 1
        self._bytes += entry.size
        if self._entries > self.limits.max_entries:
            raise Refused(f"it has more than {self.limits.max_entries} entries")
        if self._bytes > self.limits.max_bytes:
            raise Refused(f"it unpacks to more than {self.limits.max_bytes} bytes")
        parts = _split(self._inner_name(entry.name), "the entry")
        if not parts:
            if not stat.S_ISDIR(entry.kind):
                raise Refused("its top is not a directory")
            return
        place = (*self._resolve(parts[:-1], entry.name), parts[-1])
        self._check_kind(entry, place)
        if stat.S_ISLNK(entry.kind):
            self._links[place] = entry.link
        else:
            self._links.pop(place, None)

    def _inner_name(self, name: str) -> str:
        """The name as tar unpacks it: some builders write an image's own parts as ``/rootfs/…``.

        tar drops the leading slash; every other absolute name stays refused.
        """
        inner = name.lstrip("/")
        own = inner == "metadata.yaml" or inner.split("/", 1)[0] in ("rootfs", "templates")
        return inner if self.image and own else name

    def _check_kind(self, entry: Entry, place: tuple[str, ...]) -> None:
        if entry.kind == 0:
            target = _split(entry.link, "the target of hard link")
            self._resolve(target[:-1], entry.link)
            if self.image and ("rootfs" in (place[0], target[:1]) and place[:1] != target[:1]):
                raise Refused(f"the hard link {_shown(entry.name)} leads out of rootfs")
        outside = self.image and (place[0] != "rootfs" or len(place) == 1)
        plain = stat.S_ISREG(entry.kind) or stat.S_ISDIR(entry.kind)
        if outside and not (plain if place[0] != "rootfs" else stat.S_ISDIR(entry.kind)):
            raise Refused(f"the entry {_shown(entry.name)} outside rootfs is no plain file")
        if stat.S_ISBLK(entry.kind) or stat.S_ISCHR(entry.kind):
            self._check_device(entry)

    def _check_device(self, entry: Entry) -> None:
        if self.limits.any_device:
            return
        if stat.S_ISCHR(entry.kind) and entry.device in _HARMLESS:
            return
        raise Refused(
            f"the device node {_shown(entry.name)} is not allowed for unprivileged containers"
        )

    def _resolve(self, parts: tuple[str, ...], name: str) -> tuple[str, ...]:
        """Where a directory really is, following the links that the archive has made."""
        if not self._links:
            return parts
        place: list[str] = []
        pending = list(reversed(parts))
        followed = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not place or (self.image and len(place) <= 1):
                    raise Refused(f"the entry {_shown(name)} leaves the archive by a link")
                place.pop()
                continue
            link = self._links.get((*place, part))
            if link is None:
                place.append(part)
                continue
            followed += 1
            if link.startswith("/") or followed > _MOST_LINKS:
                raise Refused(f"the entry {_shown(name)} leaves the archive by a link")
            pending.extend(reversed(link.split("/")))
        return tuple(place)
