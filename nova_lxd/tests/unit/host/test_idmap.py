# SPDX-License-Identifier: Apache-2.0
"""Id maps: LXD's forms, arithmetic, allocation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_lxd.lxd.errors import BadRequest, InternalError
from nova_lxd.lxd.host.idmap import (
    OVERFLOW_ID,
    Entry,
    Idmap,
    Range,
    default_map,
    host_range,
    inside_container,
    isolated_base,
    parse_raw_idmap,
)

BASE = Idmap.simple(100000, 65536)


def test_json_is_lxds() -> None:
    assert json.loads(BASE.to_json()) == [
        {"Isuid": True, "Isgid": False, "Hostid": 100000, "Nsid": 0, "Maprange": 65536},
        {"Isuid": False, "Isgid": True, "Hostid": 100000, "Nsid": 0, "Maprange": 65536},
    ]
    assert Idmap.from_json(BASE.to_json()) == BASE
    assert Idmap.from_json("") == Idmap.from_json("[]") == Idmap()


@pytest.mark.parametrize("text", ["{", "[1]", '[{"Isuid":true}]', '"x"'])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Idmap.from_json(text)


def test_a_privileged_map_changes_nothing() -> None:
    assert not Idmap()
    assert (Idmap().host_uid(7), Idmap().ns_gid(7)) == (7, 7)
    assert Idmap().lxc_config() == []


def test_lookups() -> None:
    assert (BASE.host_uid(0), BASE.host_gid(65535), BASE.host_uid(65536)) == (100000, 165535, None)
    assert (BASE.ns_uid(100001), BASE.ns_gid(5)) == (1, OVERFLOW_ID)


def test_raw_idmap() -> None:
    entries = parse_raw_idmap("uid 1000 1000\ngid 50-60 500-510\n\nboth 7 8")
    assert entries == (
        Entry(True, False, 1000, 1000, 1),
        Entry(False, True, 50, 500, 11),
        Entry(True, True, 7, 8, 1),
    )


@pytest.mark.parametrize(
    "text",
    ["uid 1000", "user 1 1", "uid 1-2 1", "uid a b", "uid -1 0", "uid 2-1 2-1", "both 1 1 1"],
)
def test_raw_idmap_mistakes(text: str) -> None:
    with pytest.raises(BadRequest, match=r"raw\.idmap"):
        parse_raw_idmap(text)


def test_a_uid_of_the_host_is_put_into_the_map() -> None:
    mapped = BASE.with_entries(parse_raw_idmap("uid 1000 1000"))
    assert mapped.host_uid(999) == 100999
    assert mapped.host_uid(1000) == 1000
    assert mapped.host_uid(1001) == 101001
    assert mapped.host_gid(1000) == 101000, "the gid stays"
    assert mapped.lxc_config() == [
        ("lxc.idmap", "u 0 100000 1000"),
        ("lxc.idmap", "g 0 100000 65536"),
        ("lxc.idmap", "u 1000 1000 1"),
        ("lxc.idmap", "u 1001 101001 64535"),
    ]


spans = st.tuples(st.integers(0, 300), st.integers(1, 100))
kinds = st.sampled_from([(True, False), (False, True), (True, True)])


@settings(deadline=None)  # a loaded machine is no bug
@given(st.lists(st.tuples(kinds, spans, st.integers(10**6, 10**7)), max_size=4))
def test_later_entries_win_and_nothing_overlaps(
    extra: list[tuple[tuple[bool, bool], tuple[int, int], int]],
) -> None:
    entries = [Entry(u, g, host, ns, size) for (u, g), (ns, size), host in extra]
    base = Idmap.simple(100000, 256)
    mapped = base.with_entries(entries)
    for ns in range(410):
        for is_uid in (True, False):
            wanted = (base.host_uid if is_uid else base.host_gid)(ns)
            for entry in entries:
                if (entry.is_uid if is_uid else entry.is_gid) and entry.covers(ns):
                    wanted = entry.host + ns - entry.ns
            kept = [e for e in mapped.entries if (e.is_uid if is_uid else e.is_gid)]
            covering = [e for e in kept if e.covers(ns)]
            assert len(covering) == (wanted is not None)
            assert (mapped.host_uid if is_uid else mapped.host_gid)(ns) == wanted


def test_host_range(tmp_path: Path) -> None:
    uid, gid = tmp_path / "subuid", tmp_path / "subgid"
    for name in ("uid_map", "gid_map"):
        (tmp_path / name).write_text("         0          0 4294967295\n")
    assert host_range(uid, gid, tmp_path) == Range(1000000, 1000000000)
    uid.write_text("me:100000:65536\nroot:200000:100000 # ours\nbroken\nroot:x:1\n")
    with pytest.raises(InternalError, match="65536"):
        host_range(uid, gid, tmp_path)
    gid.write_text("root:250000:100000\n0:5000000:65536\n")
    with pytest.raises(InternalError, match="65536"):
        host_range(uid, gid, tmp_path)
    gid.write_text("root:220000:1000000\n")
    assert host_range(uid, gid, tmp_path) == Range(220000, 80000)
    uid.write_text("me:100000:65536\n")
    gid.write_text("me:100000:65536\n")
    assert host_range(uid, gid, tmp_path) == Range(1000000, 1000000000), "nothing for root at all"


def test_host_range_inside_a_container(tmp_path: Path) -> None:
    """Only ids that our own container has can be given on."""
    missing = tmp_path / "none"
    for name in ("uid_map", "gid_map"):
        (tmp_path / name).write_text("0 100000 1100000\n")
    assert host_range(missing, missing, tmp_path) == Range(1000000, 100000)
    (tmp_path / "gid_map").write_text("0 100000 65536\n")
    with pytest.raises(InternalError, match="exist"):
        host_range(missing, missing, tmp_path)


def test_inside_container(tmp_path: Path) -> None:
    (tmp_path / "uid_map").write_text("         0          0 4294967295\n")
    assert not inside_container(tmp_path)
    (tmp_path / "uid_map").write_text("0 100000 65536\n")
    assert inside_container(tmp_path)


def test_default_map_is_the_whole_range() -> None:
    assert default_map(Range(5, 70000)) == Idmap.simple(5, 70000)


def test_isolated_ranges_do_not_overlap() -> None:
    ids = Range(100000, 4 * 65536)
    taken: list[Range] = []
    for number in range(1, 4):
        base = isolated_base(ids, 65536, taken)
        assert base == 100000 + number * 65536
        taken.append(Range(base, 65536))
    with pytest.raises(InternalError, match="used up"):
        isolated_base(ids, 65536, taken)
    del taken[1]
    assert isolated_base(ids, 65536, taken) == 100000 + 2 * 65536, "a gap is used again"
