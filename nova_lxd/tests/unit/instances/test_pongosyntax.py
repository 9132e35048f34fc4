# SPDX-License-Identifier: Apache-2.0
"""Translation of pongo2's tags: what it makes, and that no text makes it slow."""

from __future__ import annotations

import time

import pytest

from nova_lxd.lxd.instances.pongosyntax import translate

# A megabyte takes a second at most; what is quadratic takes hours.
_SECONDS = 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ('{{ a|default:"b" }}', '{{ a|default("b") }}'),
        ("{% if a && !b || c != d %}", "{% if a  and   not b  or  c != d %}"),
        ("{% ifequal a 'b' %}x{% endifequal %}", "{% if a == 'b' %}x{% endif %}"),
        ("{%- ifequal a b -%}", "{%- if a == b -%}"),
        ("a{% comment %}{{ b }}{% endcomment %}c", "ac"),
        ("a{% comment %}b", "a{% comment %}b"),
        ("{% autoescape off %}a{% endautoescape %}", "a"),
        ("{{ '!&&' }}", "{{ '!&&' }}"),
        ("{{ 'it\\'s !' }}", "{{ 'it\\'s !' }}"),
        ("{{ 'open! }}", "{{ 'open! }}"),
        ("a }} b %} {{ c", "a }} b %} {{ c"),
        ("{% x }} {{ !y }}", "{% x }} {{  not y }}"),
        ("a\0b", "ab"),
    ],
)
def test_tags(text: str, expected: str) -> None:
    assert translate(text) == expected


@pytest.mark.parametrize(
    "part",
    ["{{", "{%", "{% comment %}", "{% comment ", "{% ifequal a", "{{ '", '{{ "\\', "{{ a|", "\\'"],
)
@pytest.mark.parametrize("end", ["", " }}", " %}"])
def test_time_grows_with_the_length_only(part: str, end: str) -> None:
    began = time.monotonic()
    translate(part * (1024 * 1024 // len(part)) + end)
    assert time.monotonic() - began < _SECONDS
