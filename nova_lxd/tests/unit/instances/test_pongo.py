# SPDX-License-Identifier: Apache-2.0
"""The template language: what images use works, what could harm the host is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nova_lxd.lxd.instances import pongo

CONFIG = {"user.a": "1", "user.user-data": "#cloud-config\n"}


def variables() -> dict[str, Any]:
    def config_get(key: str, default: str = "") -> str:
        return CONFIG.get(key, default)

    return {
        "container": {"name": "c1"},
        "config": CONFIG,
        "pair": {"a": 1, "b": 2},
        "properties": {"default": "none"},
        "config_get": config_get,
    }


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ container.name }}\n", "c1\n"),
        ('{{ config_get("user.user-data", properties.default) }}', "#cloud-config\n"),
        ('{{ config_get("user.none", properties.default) }}', "none"),
        ('{% if config_get("user.a","") == "" %}no{% else %}yes{% endif %}', "yes"),
        ('{{ missing|default:"foo" }} {{ container.name|upper }}', "foo C1"),
        ("{% if !missing && container.name == 'c1' %}T{% endif %}", "T"),
        ("{% for k, v in pair %}{{ k }}={{ v }};{% endfor %}", "a=1;b=2;"),
        ("{% ifequal container.name 'c1' %}same{% endifequal %}", "same"),
        ("a{% comment %}secret{% endcomment %}b", "ab"),
        ("{% autoescape off %}<{{ container.name }}>{% endautoescape %}", "<c1>"),
        ('{{ "a && b !" }}', "a && b !"),
        ("{{ missing }}", ""),
    ],
)
def test_renders_as_pongo2(template: str, expected: str) -> None:
    assert pongo.render(template, variables()) == expected


@pytest.mark.parametrize(
    "template",
    [
        '{{ "a" * 1000000000 }}',
        "{{ config.items() }}",
        "{{ ''.join(['a']) }}",
        "{% for a in config %}{% for b in config %}{% for c in config %}x"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ config_get.__globals__ }}{{ config_get.__globals__['os'].system('x') }}",
        "{% set a = 'x' %}{% for i in config %}{% set a = a + a %}{% endfor %}",
        "{{ unclosed",
        "{% if %}",
        "{{ 'a' ~ 'b' }}",
    ],
)
def test_refuses(template: str) -> None:
    with pytest.raises(pongo.TemplateError):
        pongo.render(template, variables())


def test_output_is_bounded() -> None:
    doubling = "{% set a = 'xxxxxxxx' %}" + "{% set a = a + a %}" * 30 + "{{ a }}"
    with pytest.raises(pongo.TemplateError):
        pongo.render(doubling, {})


def test_attributes_of_python_objects_stay_hidden() -> None:
    assert pongo.render("{{ config.__class__ }}", variables()) == ""


@pytest.mark.parametrize(
    "template",
    [
        "{{ '1e999'|float|integer }}",
        "{{ 1" + "0" * 400 + "|float }}",
        "{{ 5 is divisibleby(0) }}",
        "{{ 'abc'[1:] }}",
        "{% if trigger %}" * 150 + "{% endif %}" * 150,
        "{{ " + "(" * 3000 + "a" + ")" * 3000 + " }}",
    ],
)
def test_what_python_cannot_do_is_refused_too(template: str) -> None:
    with pytest.raises(pongo.TemplateError):
        pongo.render(template, variables())


@pytest.mark.parametrize(
    "template",
    [
        "{{ '" + "a" * 3000 + "'|split:'a'|join:'" + "b" * 100_000 + "' }}",
        "{% for a in '" + "a" * 9000 + "' %}{% for b in '" + "a" * 9000 + "' %}"
        "{% endfor %}{% endfor %}",
        "{% set a = '" + "a" * 900_000 + "' %}"
        + "".join(f"{{% set a{n} = a|upper %}}" for n in range(100)),
    ],
)
def test_work_and_memory_are_bounded(template: str) -> None:
    with pytest.raises(pongo.TemplateError, match="more of texts and loops than is allowed"):
        pongo.render(template, variables())


def test_argument_of_another_type_is_taken_as_text() -> None:
    assert pongo.render("{{ pair|yesno:5 }}", variables()) == "5"
