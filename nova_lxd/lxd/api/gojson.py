# SPDX-License-Identifier: Apache-2.0
"""JSON bodies as Go reads them: null leaves a field at its zero value, whatever its type."""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def decode(data: bytes, kind: type[T]) -> T:
    """Decode a body.

    :raises msgspec.DecodeError: it is no JSON, or a field has the wrong type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        if b"null" not in data:
            raise
        return msgspec.convert(_without_nulls(msgspec.json.decode(data), kind), kind)


def _without_nulls(value: Any, kind: Any) -> Any:
    """``value`` without the nulls that ``kind`` has no place for."""
    if isinstance(value, dict):
        fields = _fields(kind)
        if fields is not None:
            return {
                name: _without_nulls(item, fields.get(name, Any))
                for name, item in value.items()
                if item is not None
            }
        inner = _argument(kind, dict, 1)
        zero = "" if inner is str else None
        return {
            key: zero if item is None else _without_nulls(item, inner)
            for key, item in value.items()
        }
    if isinstance(value, list):
        inner = _argument(kind, list, 0)
        return [_without_nulls(item, inner) for item in value]
    return value


@cache
def _fields(kind: Any) -> dict[str, Any] | None:
    """Types of a struct's fields by their names in JSON; None when it is no struct."""
    for member in _members(kind):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            return {f.encode_name: f.type for f in msgspec.structs.fields(member)}
    return None


def _members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def _argument(kind: Any, container: type, position: int) -> Any:
    """The type of a container's items."""
    for member in _members(kind):
        if typing.get_origin(member) is container:
            return typing.get_args(member)[position]
    return Any
