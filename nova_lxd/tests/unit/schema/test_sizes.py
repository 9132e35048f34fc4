# SPDX-License-Identifier: Apache-2.0
"""Sizes in LXD's units."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.schema.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("12 bytes", 12),
        ("5120kB", 5_120_000),
        ("5MB", 5_000_000),
        ("10GB", 10_000_000_000),
        ("1TB", 10**12),
        ("5KiB", 5120),
        ("5MiB", 5 * 1024**2),
        ("5GiB", 5 * 1024**3),
        ("1EiB", 1024**6),
    ],
)
def test_parse(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "GB",
        "-1",
        "-1GB",
        "1.5GB",
        "10 GB",
        "10gb",
        "10KB",
        "1 0",
        "1e3",
        "٣",
        "9" * 400,
        "8EiB",
        "x",
    ],
)
def test_refuse(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_size(text)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_bad_request(text: str) -> None:
    with contextlib.suppress(BadRequest):
        assert 0 <= parse_size(text) < 2**63


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (15_500_000, "15.50MB")]
)
def test_format(count: int, text: str) -> None:
    assert format_size(count) == text
