# SPDX-License-Identifier: Apache-2.0
"""Maps between the ids of a container and those of the host.

``Idmap`` is a value: the entries in the order in which the kernel gets them.  ``userns_fd`` turns
one into the user namespace descriptor that an idmapped mount needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nova_lxd.lxd.errors import BadRequest, InternalError

# What LXD takes when /etc/subuid and /etc/subgid are missing.
BUILTIN_BASE = 1000000
BUILTIN_SIZE = 1000000000
# The smallest range that holds a system container (LXD: "at least 65536 uids and gids").
MINIMUM_SIZE = 65536
# What the kernel shows for an id that is not mapped.
OVERFLOW_ID = 65534
_MAX_ID = 2**32 - 1


@dataclass(frozen=True, order=True)
class Entry:
    """``size`` ids from ``ns`` inside are ``host`` and following outside: uids, gids or both."""

    is_uid: bool
    is_gid: bool
    host: int
    ns: int
    size: int

    def covers(self, ns: int) -> bool:
        """Is the id ``ns`` of the container in this entry?"""
        return self.ns <= ns < self.ns + self.size


@dataclass(frozen=True)
class Range:
    """Host ids ``base`` .. ``base + size - 1``, for uids and gids alike."""

    base: int
    size: int


@dataclass(frozen=True)
class Idmap:
    """The whole map of a container; empty for a privileged one."""

    entries: tuple[Entry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    @classmethod
    def simple(cls, base: int, size: int) -> Idmap:
        """Uids and gids from 0 on, at ``base`` of the host."""
        return cls((Entry(True, True, base, 0, size),))

    def _host(self, ns: int, entries: Iterable[Entry]) -> int | None:
        for entry in entries:
            if entry.covers(ns):
                return entry.host + ns - entry.ns
        return None

    def host_uid(self, ns: int) -> int | None:
        """The host's uid of a container's, None when not mapped; the same when privileged."""
        return self._host(ns, (e for e in self.entries if e.is_uid)) if self else ns

    def host_gid(self, ns: int) -> int | None:
        """Like :meth:`host_uid` for a gid."""
        return self._host(ns, (e for e in self.entries if e.is_gid)) if self else ns

    def ns_uid(self, host: int) -> int:
        """The container's uid of a host's; the overflow id when it is not mapped."""
        return self._ns(host, (e for e in self.entries if e.is_uid)) if self else host

    def ns_gid(self, host: int) -> int:
        """Like :meth:`ns_uid` for a gid."""
        return self._ns(host, (e for e in self.entries if e.is_gid)) if self else host

    def _ns(self, host: int, entries: Iterable[Entry]) -> int:
        for entry in entries:
            if entry.host <= host < entry.host + entry.size:
                return entry.ns + host - entry.host
        return OVERFLOW_ID

    def uid_map(self) -> str:
        """The text for /proc/PID/uid_map."""
        return "".join(f"{e.ns} {e.host} {e.size}\n" for e in self.entries if e.is_uid)

    def gid_map(self) -> str:
        """The text for /proc/PID/gid_map."""
        return "".join(f"{e.ns} {e.host} {e.size}\n" for e in self.entries if e.is_gid)

    def lxc_config(self) -> list[tuple[str, str]]:
        """The ``lxc.idmap`` items."""
        items = []
        for entry in self.entries:
            if entry.is_uid:
                items.append(("lxc.idmap", f"u {entry.ns} {entry.host} {entry.size}"))
            if entry.is_gid:
                items.append(("lxc.idmap", f"g {entry.ns} {entry.host} {entry.size}"))
        return items

    def to_json(self) -> str:
        """LXD's text for ``volatile.idmap.*`` and ``volatile.last_state.idmap``."""
        split = []
        for e in self.entries:
            if e.is_uid:
                split.append(_json_entry(True, e))
            if e.is_gid:
                split.append(_json_entry(False, e))
        return json.dumps(split, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Idmap:
        """The inverse of :meth:`to_json`; uid and gid entries of the same ids become one.

        :raises BadRequest: it is no such text, or has what are no ids.
        """
        try:
            items: list[dict[str, Any]] = json.loads(text) if text else []
            entries = [
                Entry(
                    bool(item["Isuid"]),
                    bool(item["Isgid"]),
                    int(item["Hostid"]),
                    int(item["Nsid"]),
                    int(item["Maprange"]),
                )
                for item in items
            ]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            raise BadRequest("Reading an id map failed: it is not LXD's JSON form") from exc
        for entry in entries:
            if min(entry.host, entry.ns) < 0 or entry.size < 1:
                raise BadRequest("Reading an id map failed: it has negative ids or empty ranges")
            if max(entry.host, entry.ns) + entry.size - 1 > _MAX_ID:
                raise BadRequest(f"Reading an id map failed: it has ids beyond {_MAX_ID}")
        return cls(_merge_kinds(entries))

    def with_entries(self, extra: Sequence[Entry]) -> Idmap:
        """This map with ``extra`` entries put in; what they overlap is split around them."""
        entries = list(self.entries)
        for new in extra:
            entries = [piece for old in entries for piece in _cut(old, new)]
            entries.append(new)
        return Idmap(tuple(sorted(entries, key=lambda e: (e.ns, not e.is_uid))))


def _json_entry(uid: bool, entry: Entry) -> dict[str, Any]:
    return {
        "Isuid": uid,
        "Isgid": not uid,
        "Hostid": entry.host,
        "Nsid": entry.ns,
        "Maprange": entry.size,
    }


def _merge_kinds(entries: list[Entry]) -> tuple[Entry, ...]:
    """Join a uid entry and a gid entry that say the same."""
    merged: list[Entry] = []
    for entry in entries:
        for i, other in enumerate(merged):
            same = (entry.host, entry.ns, entry.size) == (other.host, other.ns, other.size)
            if same and entry.is_uid != other.is_uid and entry.is_gid != other.is_gid:
                merged[i] = Entry(True, True, entry.host, entry.ns, entry.size)
                break
        else:
            merged.append(entry)
    return tuple(merged)


def _cut(old: Entry, new: Entry) -> list[Entry]:
    """``old`` without the container ids that ``new`` maps (of the kinds that ``new`` maps)."""
    both_uid, both_gid = old.is_uid and new.is_uid, old.is_gid and new.is_gid
    start, end = max(old.ns, new.ns), min(old.ns + old.size, new.ns + new.size)
    if not (both_uid or both_gid) or start >= end:
        return [old]
    pieces = []
    if (old.is_uid, old.is_gid) != (both_uid, both_gid):
        # The kind that the new entry leaves alone keeps the whole range.
        uid, gid = old.is_uid and not both_uid, old.is_gid and not both_gid
        pieces.append(Entry(uid, gid, old.host, old.ns, old.size))
    if old.ns < start:
        pieces.append(Entry(both_uid, both_gid, old.host, old.ns, start - old.ns))
    if end < old.ns + old.size:
        rest = old.ns + old.size - end
        pieces.append(Entry(both_uid, both_gid, old.host + end - old.ns, end, rest))
    return pieces


def parse_subid(text: str, owner: str = "root", number: str = "0") -> list[Range]:
    """The ranges of ``owner`` in the text of /etc/subuid or /etc/subgid."""
    ranges = []
    for line in text.splitlines():
        fields = line.split("#", 1)[0].strip().split(":")
        if len(fields) == 3 and fields[0] in (owner, number):
            try:
                ranges.append(Range(int(fields[1]), int(fields[2])))
            except ValueError:
                continue
    return ranges


def _common(some: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """The ids that are in a range of both."""
    found = []
    others = list(others)
    for one in some:
        for other in others:
            base = max(one.base, other.base)
            size = min(one.base + one.size, other.base + other.size) - base
            if size > 0:
                found.append(Range(base, size))
    return found


def _granted(path: Path) -> list[Range] | None:
    """Root's ranges in one of the two files; None when it says nothing of root at all."""
    return (parse_subid(path.read_text()) or None) if path.exists() else None


def _exist(path: Path) -> list[Range]:
    """The ids that exist in this process's user namespace: not all, inside a container."""
    rows = (line.split() for line in path.read_text().splitlines())
    return [Range(int(first), int(size)) for first, _, size in rows]


def inside_container(proc: Path = Path("/proc/self")) -> bool:
    """Is this process's user namespace another than the host's first one?"""
    everything = Range(0, _MAX_ID)  # the last number means "none"
    return _exist(proc / "uid_map") != [everything]


def host_range(
    subuid: Path = Path("/etc/subuid"),
    subgid: Path = Path("/etc/subgid"),
    proc: Path = Path("/proc/self"),
) -> Range:
    """The host ids that containers may use: root's largest range that both files grant.

    :param proc: where ``uid_map`` and ``gid_map`` tell which ids there are.
    :raises InternalError: the files grant root no 65536 ids in common that exist.
    """
    uids, gids = _granted(subuid), _granted(subgid)
    if uids is None and gids is None:
        uids = gids = [Range(BUILTIN_BASE, BUILTIN_SIZE)]
    both = _common(uids or [], gids or [])
    usable = _common(_common(both, _exist(proc / "uid_map")), _exist(proc / "gid_map"))
    best = max(usable, key=lambda r: r.size, default=Range(0, 0))
    if best.size < MINIMUM_SIZE:
        raise InternalError(
            "Finding ids for unprivileged containers failed: /etc/subuid and /etc/subgid grant "
            f"root no common range of {MINIMUM_SIZE} ids that exist; add one, for example "
            f"'root:{BUILTIN_BASE}:{BUILTIN_SIZE}'"
        )
    return best


def default_map(ids: Range) -> Idmap:
    """The map of every container that is not isolated: the whole range."""
    return Idmap.simple(ids.base, ids.size)


def isolated_base(ids: Range, size: int, taken: Iterable[Range]) -> int:
    """The lowest base for ``size`` ids that overlaps none of the ``taken`` isolated ranges.

    As in LXD the first 65536 ids of the range stay with the containers that are not isolated.

    :raises InternalError: no room is left.
    """
    base = ids.base + MINIMUM_SIZE
    for used in sorted(taken, key=lambda r: r.base):
        if used.base - base >= size:
            break
        base = max(base, used.base + used.size)
    if base + size > ids.base + ids.size:
        raise InternalError(
            f"Finding {size} host ids for an isolated container failed: the range "
            f"{ids.base}:{ids.size} of /etc/subuid and /etc/subgid is used up; enlarge it"
        )
    return base


def _parse_span(text: str) -> tuple[int, int]:
    """``N`` or ``N-M`` as (first, size)."""
    first, sep, last = text.partition("-")
    try:
        start, end = int(first), int(last if sep else first)
    except ValueError as exc:
        raise BadRequest(f"Reading raw.idmap failed: '{text}' is not an id or a range") from exc
    if not 0 <= start <= end <= _MAX_ID:
        raise BadRequest(f"Reading raw.idmap failed: '{text}' is not a range of ids")
    return start, end - start + 1


def parse_raw_idmap(text: str) -> tuple[Entry, ...]:
    """The entries of a ``raw.idmap`` value: lines ``uid|gid|both HOST[-HOST] NS[-NS]``.

    :raises BadRequest: a line is malformed or its two ranges differ in size.
    """
    entries = []
    for line in text.splitlines():
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[0] not in ("uid", "gid", "both"):
            raise BadRequest(
                f"Reading raw.idmap failed: '{line}' is not 'uid|gid|both HOST-IDS CONTAINER-IDS'"
            )
        (host, host_size), (ns, ns_size) = _parse_span(fields[1]), _parse_span(fields[2])
        if host_size != ns_size:
            raise BadRequest(f"Reading raw.idmap failed: the ranges of '{line}' differ in size")
        entries.append(Entry(fields[0] != "gid", fields[0] != "uid", host, ns, host_size))
    return tuple(entries)


_fds: dict[Idmap, int] = {}
_fds_lock = threading.Lock()


def userns_fd(idmap: Idmap) -> int:
    """A descriptor of a user namespace with this map; kept for ever, never close it.

    :raises InternalError: the kernel or the host's policy refuses user namespaces or the map.
    """
    with _fds_lock:
        fd = _fds.get(idmap)
        if fd is None:
            fd = _fds[idmap] = _make_userns(idmap)
        return fd


def _make_userns(idmap: Idmap) -> int:
    # A program rather than a fork: the daemon has many threads, and a child of fork() may not
    # run Python code safely.  ``cat`` answers only after unshare(2) is done.
    with subprocess.Popen(
        ["unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(b"\n")
            child.stdin.flush()
            if child.stdout.read(1) != b"\n":
                raise OSError("no user namespace was made")
            proc = Path("/proc") / str(child.pid)
            (proc / "uid_map").write_text(idmap.uid_map())
            (proc / "gid_map").write_text(idmap.gid_map())
            return os.open(proc / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise InternalError(
                f"Making a user namespace with the map {idmap.to_json()} failed: {exc}; check "
                "/proc/sys/user/max_user_namespaces"
            ) from exc
