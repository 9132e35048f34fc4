# SPDX-License-Identifier: Apache-2.0
"""The messages of LXD's migration protocol, and as much of protobuf as they need.

A message is a dataclass whose fields carry their number and kind (LXD: migrate.proto).  What is
None is not sent; fields that are not known are skipped, as protobuf demands.
"""
# ruff: noqa: RUF009 - _number() makes dataclasses' own fields

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Self

from nova_lxd.lxd.errors import BadRequest

# File system transfers (MigrationFSType) and process states (CRIUType).
FS_RSYNC, FS_BTRFS, FS_ZFS = 0, 1, 2
CRIU_RSYNC, CRIU_PHAUL, CRIU_NONE = 0, 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WORD = 1 << 64


class WireError(BadRequest):
    """The peer sent bytes that are not the expected message."""


def _number(number: int, kind: type, *, many: bool = False, default: Any = None) -> Any:
    meta = {"number": number, "kind": kind, "many": many}
    if many:
        return field(default_factory=list, metadata=meta)
    return field(default=default, metadata=meta)


def _varint(value: int) -> bytes:
    value %= _WORD  # negative numbers go as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % _WORD, at
    raise WireError("A migration message ends within a number")


def _values(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers with their values: an integer, or the bytes of a string or message."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"A migration message has a field of unknown kind {kind}")
        if size > len(data) - at:
            raise WireError("A migration message ends within a field")
        if kind == _BYTES:
            yield number, data[at : at + size]
        at += size


class Message:
    """Base of the messages; subclasses are dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def encode(self) -> bytes:
        """The message as protobuf."""
        out = bytearray()
        for each in fields(self):
            value = getattr(self, each.name)
            for item in value if each.metadata["many"] else (() if value is None else (value,)):
                out += _encoded(each.metadata["number"], item)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """:raises WireError: the bytes are no such message."""
        known = {each.metadata["number"]: each for each in fields(cls)}
        message = cls()
        for number, value in _values(memoryview(data)):
            each = known.get(number)
            if each is None:
                continue
            decoded = _decoded(each.metadata["kind"], value, f"{cls.__name__}.{each.name}")
            if each.metadata["many"]:
                getattr(message, each.name).append(decoded)
            else:
                setattr(message, each.name, decoded)
        return message


def _encoded(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    data = value.encode() if isinstance(value, (str, Message)) else value
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _decoded(kind: type, value: int | memoryview, what: str) -> Any:
    if isinstance(value, int) != issubclass(kind, int):
        raise WireError(f"{what} of a migration message is of the wrong kind")
    if isinstance(value, int):
        if kind is bool:
            return bool(value)
        return value - _WORD if value >= _WORD // 2 else value
    if issubclass(kind, Message):
        return kind.decode(value)
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as exc:
        raise WireError(f"{what} of a migration message is no UTF-8") from exc


@dataclass
class IdmapEntry(Message):
    """One range of the id map that the sender's trees are shifted by (IDMapType)."""

    is_uid: bool = _number(1, bool, default=False)
    is_gid: bool = _number(2, bool, default=False)
    host: int = _number(3, int, default=0)
    ns: int = _number(4, int, default=0)
    size: int = _number(5, int, default=0)


@dataclass
class Config(Message):
    """One key and its value."""

    key: str = _number(1, str, default="")
    value: str = _number(2, str, default="")


@dataclass
class Device(Message):
    """One device."""

    name: str = _number(1, str, default="")
    config: list[Config] = _number(2, Config, many=True)


@dataclass
class Snapshot(Message):
    """What the sender has recorded of a snapshot; dates are UNIX times."""

    name: str = _number(1, str, default="")
    config: list[Config] = _number(2, Config, many=True)
    profiles: list[str] = _number(3, str, many=True)
    ephemeral: bool = _number(4, bool, default=False)
    devices: list[Device] = _number(5, Device, many=True)
    architecture: int = _number(6, int, default=0)
    stateful: bool = _number(7, bool, default=False)
    creation_date: int | None = _number(8, int)
    last_used_date: int | None = _number(9, int)
    expiry_date: int | None = _number(10, int)


@dataclass
class RsyncFeatures(Message):
    """Options of rsync that both sides must agree on."""

    xattrs: bool | None = _number(1, bool)
    delete: bool | None = _number(2, bool)
    compress: bool | None = _number(3, bool)
    bidirectional: bool | None = _number(4, bool)


@dataclass
class BtrfsFeatures(Message):
    """What is sent before btrfs streams."""

    migration_header: bool | None = _number(1, bool)
    header_subvolumes: bool | None = _number(2, bool)
    header_subvolume_uuids: bool | None = _number(3, bool)


@dataclass
class Header(Message):
    """The sender's offer, and the receiver's choice (MigrationHeader)."""

    fs: int = _number(1, int, default=FS_RSYNC)
    criu: int | None = _number(2, int)
    idmap: list[IdmapEntry] = _number(3, IdmapEntry, many=True)
    snapshot_names: list[str] = _number(4, str, many=True)
    snapshots: list[Snapshot] = _number(5, Snapshot, many=True)
    predump: bool | None = _number(7, bool)
    rsync: RsyncFeatures | None = _number(8, RsyncFeatures)
    refresh: bool | None = _number(9, bool)
    volume_size: int | None = _number(11, int)
    btrfs: BtrfsFeatures | None = _number(12, BtrfsFeatures)
    index_header_version: int | None = _number(13, int)


@dataclass
class Control(Message):
    """How it went, or why it did not (MigrationControl)."""

    success: bool = _number(1, bool, default=False)
    message: str | None = _number(2, str)
