# SPDX-License-Identifier: Apache-2.0
"""Clients' regular expressions: they mean what they mean elsewhere, and none is slow."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_lxd.lxd.api.patterns import PatternError, matches


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("c1", "c1", True),
        ("C1", "c1", True),
        ("c", "c1", False),
        ("c.*", "c1", True),
        ("^c", "c1", True),
        ("1$", "c1", True),
        ("^$", "", True),
        ("", "a", False),
        ("a|b|cd", "cd", True),
        ("(a|b)+c{2,3}", "ababccc", True),
        ("(a|b)+c{2,3}", "ababc", False),
        ("a{2}", "aaa", False),
        ("a{2,}", "aaa", True),
        ("a{x", "a{x", True),
        (r"c\d+\.x", "c12.x", True),
        ("[a-c]+[^0-9]", "abcx", True),
        ("[]a]+", "]a", True),
        ("[a-]", "-", True),
        ("(a*)*b", "aab", True),
        ("a??b", "ab", True),
    ],
)
def test_matches(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "[", "*", "a{3,2}", "a{2000}", "(?i)a", r"\b", "[[:alpha:]]", "\\",
     "((a{99}){99}){99}", "(" * 100 + ")" * 100],
)  # fmt: skip
def test_refuses(pattern: str) -> None:
    with pytest.raises(PatternError):
        matches(pattern, "a")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(a*)*c", "a*" * 200 + "b", "(.*){99}x"])
def test_is_not_slow(pattern: str) -> None:
    began = time.monotonic()
    try:
        assert not matches(pattern, "a" * 5000 + "!")
    except PatternError as exc:
        assert "steps" in str(exc)
    assert time.monotonic() - began < 30


_PIECES = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(ab)", "a*", "b+", "(ab)?", "a{1,2}", "(a|b)*", "|"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PIECES, max_size=6).map("".join), st.text("ab", max_size=6))
def test_agrees_with_python(pattern: str, text: str) -> None:
    find = re.search if "^" in pattern else re.fullmatch  # LXD's rule, even inside of [^a]
    assert matches(pattern, text) is (find(pattern, text, re.I) is not None)
