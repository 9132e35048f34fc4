# SPDX-License-Identifier: Apache-2.0
"""LXD's migration messages: known bytes, round trips, and bytes that are no message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.instances.migration import negotiation, records, wire
from nova_lxd.lxd.instances.migration.peer import PeerFailed, receive_header
from nova_lxd.lxd.instances.migration.wire import (
    BtrfsFeatures,
    Config,
    Control,
    Device,
    Header,
    IdmapEntry,
    RsyncFeatures,
    Snapshot,
    WireError,
)
from nova_lxd.lxd.storage.drivers.interface import MigrationType

RSYNC = MigrationType("rsync", ("xattrs", "delete", "compress", "bidirectional"))
BTRFS = MigrationType("btrfs", ("header_subvolumes",))

# What LXD 5.0.2 offered for a stopped instance without snapshots on a btrfs pool.
LXD_OFFER = bytes.fromhex("080138004208080110011801200162060801100118016801")
# The same with a snapshot that never expires.
LXD_SNAPSHOT = bytes.fromhex(Path(__file__).with_name("lxd_offer.hex").read_text("ascii"))


def test_known_bytes() -> None:
    assert Control(True, "").encode() == b"\x08\x01\x12\x00"
    assert Control(False, "no").encode() == b"\x08\x00\x12\x02no"
    header = Header(fs=wire.FS_BTRFS, predump=False, rsync=RsyncFeatures(True, True, True, True))
    assert header.encode() == b"\x08\x01\x38\x00\x42\x08\x08\x01\x10\x01\x18\x01\x20\x01"
    entry = IdmapEntry(True, False, -1, 0, 65536)
    assert entry.encode() == (
        b"\x08\x01\x10\x00\x18" + b"\xff" * 9 + b"\x01" + b"\x20\x00\x28\x80\x80\x04"
    )
    assert IdmapEntry.decode(entry.encode()) == entry


def test_offer_of_real_lxd() -> None:
    offer = Header.decode(LXD_OFFER)
    assert offer.fs == wire.FS_BTRFS and offer.criu is None and offer.snapshots == []
    assert offer.btrfs == BtrfsFeatures(True, True, True)
    assert offer.index_header_version == 1
    assert negotiation.match(offer, [BTRFS, RSYNC]) == [BTRFS, RSYNC]


def test_snapshot_of_real_lxd() -> None:
    (message,) = Header.decode(LXD_SNAPSHOT).snapshots
    instance = InstanceRecord("default", "c1", "x86_64", "here", 5.0, id=3)
    record = records.snapshot_record(message, instance)
    assert (record.instance_id, record.name, record.intent) == (3, "s0", "create")
    assert (record.architecture, record.profiles) == ("x86_64", ["default"])
    assert (record.created_at, record.expires_at) == (1795301851.0, 0.0)
    assert record.config["image.os"] == "busybox"
    # What belongs to the other server stays there.
    assert not any(key.startswith(("volatile.idmap", "volatile.last")) for key in record.config)
    again = records.snapshot_record(records.snapshot_message(record), instance)
    assert again == record


def test_root_disk_of_a_snapshot_follows_the_instance() -> None:
    instance = InstanceRecord("default", "c1", "x86_64", "here", 5.0, id=3)
    root = Device("root", [Config("type", "disk"), Config("path", "/"), Config("pool", "there")])
    message = Snapshot(name="s0", architecture=2, devices=[root])
    assert records.snapshot_record(message, instance).devices["root"]["pool"] == "here"
    for bad in (Snapshot(name="../s0", architecture=2), Snapshot(name="s0", architecture=99)):
        with pytest.raises(BadRequest):
            records.snapshot_record(bad, instance)


def test_unknown_fields_are_passed_over() -> None:
    noise = b"\xf8\x07\x05" + b"\xfa\x07\x02ab" + b"\xfd\x07abcd" + b"\xf9\x07abcdefgh"
    assert Control.decode(noise + b"\x08\x01" + noise) == Control(True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # a key without its value
        b"\x08\x80",  # a number that does not end
        b"\x08" + b"\xff" * 11,  # one that is too long
        b"\x12\x05ab",  # fewer bytes than announced
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length beyond everything
        b"\x12\x02\xff\xfe",  # no UTF-8
        b"\x0a\x01a",  # a string where a bool belongs
        b"\x10\x01",  # a bool where a string belongs
        b"\x0b",  # a group, which protobuf itself gave up
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        Control.decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        header = Header.decode(data)
    except WireError:
        return
    assert Header.decode(header.encode()) == header


texts = st.text(max_size=20)
items = st.lists(st.builds(Config, texts, texts), max_size=3)
numbers = st.integers(-(2**63), 2**63 - 1)
snapshot_messages = st.builds(
    Snapshot,
    name=texts,
    config=items,
    profiles=st.lists(texts, max_size=3),
    ephemeral=st.booleans(),
    devices=st.lists(st.builds(Device, texts, items), max_size=3),
    architecture=st.integers(0, 12),
    creation_date=st.none() | numbers,
    expiry_date=st.none() | numbers,
)


@given(
    st.builds(
        Header,
        fs=st.integers(0, 4),
        criu=st.none() | st.integers(0, 3),
        snapshots=st.lists(snapshot_messages, max_size=3),
        snapshot_names=st.lists(texts, max_size=3),
        refresh=st.none() | st.booleans(),
    )
)
def test_round_trip(header: Header) -> None:
    assert Header.decode(header.encode()) == header


class Says:
    """A peer that says one thing."""

    def __init__(self, message: bytes) -> None:
        self._message = message

    def receive(self) -> bytes:
        return self._message


def test_refusal_in_place_of_a_header() -> None:
    with pytest.raises(PeerFailed, match="disk full"):
        receive_header(Says(Control(False, "disk full").encode()))  # type: ignore[arg-type]
    with pytest.raises(WireError):
        receive_header(Says(b"\x08"))  # type: ignore[arg-type]


def test_both_can_btrfs() -> None:
    assert negotiation.match(negotiation.offer([BTRFS, RSYNC]), [BTRFS, RSYNC]) == [BTRFS, RSYNC]


def test_mixed_pools_fall_back_to_rsync() -> None:
    assert negotiation.match(negotiation.offer([BTRFS, RSYNC]), [RSYNC]) == [RSYNC]
    answer = negotiation.offer([RSYNC])
    assert negotiation.match(answer, [BTRFS, RSYNC])[0] == RSYNC


def test_features_are_those_of_both() -> None:
    header = Header(fs=wire.FS_RSYNC, rsync=RsyncFeatures(True, False, False, True))
    assert negotiation.match(header, [RSYNC]) == [
        MigrationType("rsync", ("xattrs", "bidirectional"))
    ]
    old = Header(fs=wire.FS_RSYNC)
    assert negotiation.match(old, [RSYNC]) == [
        MigrationType("rsync", ("xattrs", "delete", "compress"))
    ]
    one_half = Header(fs=wire.FS_BTRFS, btrfs=BtrfsFeatures(True, False))
    assert negotiation.match(one_half, [BTRFS])[0].features == ()


def test_no_way_in_common() -> None:
    with pytest.raises(BadRequest, match="share no way"):
        negotiation.match(Header(fs=wire.FS_ZFS), [BTRFS])


def test_id_map() -> None:
    ids = records.idmap_of(
        [IdmapEntry(True, False, 1000000, 0, 65536), IdmapEntry(False, True, -2, 0, 2)]
    )
    assert ids.ns_uid(1000007) == 7
    assert ids.ns_gid(2**32 - 1) == 1
    assert not records.idmap_of([])


def test_snapshot_names_must_differ() -> None:
    with pytest.raises(BadRequest, match="same name"):
        records.check_names([Snapshot(name="a"), Snapshot(name="a")])
