# SPDX-License-Identifier: Apache-2.0
"""JSON as Go's clients expect it, also of names that are no UTF-8, as files of guests may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder(decimal_format="number")
# What Python makes of a byte that is no UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")


def encode(value: Any) -> bytes:
    """The JSON of a value; bytes that are no text become U+FFFD, as Go does it."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return _ENCODER.encode(_printable(value))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value
