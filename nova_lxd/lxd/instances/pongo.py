# SPDX-License-Identifier: Apache-2.0
"""The template language of LXD's images (pongo2) on Jinja2: no code, no loops without end.

A template may only read the variables it is given: it has no globals, calls nothing but
``config_get``, loops over given values at most two deep, builds no text by multiplication, and its
output is bounded.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT = 4 * 1024 * 1024
MAX_LOOP_DEPTH = 2
MAX_NODES = 20_000


class TemplateError(Exception):
    """The template cannot be rendered; the text says why."""


_TAG = re.compile(r"(\{\{.*?\}\}|\{%.*?%\})", re.S)
_STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'")
_FILTER_ARGUMENT = re.compile(r"\|\s*([A-Za-z_]\w*)\s*:\s*(\0\d+\0|[\w.\-]+)")
_COMMENT = re.compile(r"\{%-?\s*comment\b.*?%\}.*?\{%-?\s*endcomment\s*-?%\}", re.S)
_AUTOESCAPE = re.compile(r"\{%-?\s*(?:end)?autoescape\b.*?%\}")


def _translate_tag(tag: str) -> str:
    strings: list[str] = []

    def hide(match: re.Match[str]) -> str:
        strings.append(match[0])
        return f"\0{len(strings) - 1}\0"

    text = _STRING.sub(hide, tag)
    text = _FILTER_ARGUMENT.sub(r"|\1(\2)", text)
    text = text.replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"!(?!=)", " not ", text)
    text = re.sub(r"\{%(-?)\s*ifequal\s+(\S+)\s+(\S+)\s*(-?)%\}", r"{%\1 if \2 == \3 \4%}", text)
    text = re.sub(r"\{%(-?)\s*endifequal\s*(-?)%\}", r"{%\1 endif \2%}", text)
    return re.sub(r"\0(\d+)\0", lambda m: strings[int(m[1])], text)


def translate(text: str) -> str:
    """pongo2's spelling of operators and filter arguments in Jinja2's."""
    text = text.replace("\0", "")
    text = _AUTOESCAPE.sub("", _COMMENT.sub("", text))
    return _TAG.sub(lambda m: _translate_tag(m[0]), text)


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, jinja2.Undefined) else str(value)


def _default(value: Any, other: Any = "") -> Any:
    return value if value and not isinstance(value, jinja2.Undefined) else other


def _yesno(value: Any, words: str = "yes,no") -> str:
    yes, _, rest = words.partition(",")
    return yes if value else rest.partition(",")[0]


_FILTERS: dict[str, Callable[..., Any]] = {
    "capfirst": lambda v: _text(v)[:1].upper() + _text(v)[1:],
    "cut": lambda v, part="": _text(v).replace(_text(part), "") if part else _text(v),
    "default": _default,
    "default_if_none": lambda v, other="": other if v is None else v,
    "escape": lambda v: v,
    "first": lambda v: v[0] if v else "",
    "float": lambda v: float(v),
    "integer": lambda v: int(v),
    "items": lambda v: list(v.items()) if isinstance(v, Mapping) else v,
    "join": lambda v, sep="": _text(sep).join(_text(item) for item in v),
    "last": lambda v: v[-1] if v else "",
    "length": lambda v: len(v),
    "lower": lambda v: _text(v).lower(),
    "safe": lambda v: v,
    "split": lambda v, sep=" ": _text(v).split(_text(sep)),
    "title": lambda v: _text(v).title(),
    "trim": lambda v: _text(v).strip(),
    "upper": lambda v: _text(v).upper(),
    "wordcount": lambda v: len(_text(v).split()),
    "yesno": _yesno,
}
_ALLOWED_NODES = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.If,
    nodes.For,
    nodes.Assign,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Filter,
    nodes.Test,
    nodes.Call,
    nodes.Keyword,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
    nodes.Add,
    nodes.Sub,
    nodes.Neg,
    nodes.Tuple,
    nodes.List,
    nodes.Slice,
)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-"))

    def call_binop(self, _context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if numbers:
            return left + right if operator == "+" else left - right
        joined = _text(left) + _text(right)
        if operator != "+" or len(joined) > MAX_OUTPUT:
            raise TemplateError("it computes with what are no numbers, or a text is too long")
        return joined

    def is_safe_callable(self, obj: Any) -> bool:
        return getattr(obj, "__name__", "") == "config_get"


def _environment() -> _Environment:
    env = _Environment(keep_trailing_newline=True, autoescape=False, finalize=_finalize)
    env.globals.clear()
    env.filters.clear()
    env.filters.update(_FILTERS)
    return env


def _finalize(value: Any) -> Any:
    if isinstance(value, bool):
        return "True" if value else "False"
    return "" if value is None else value


_ENV = _environment()


def _check(node: nodes.Node, loops: int, budget: list[int]) -> None:
    budget[0] -= 1
    if budget[0] < 0:
        raise TemplateError(f"it has more than {MAX_NODES} parts")
    if not isinstance(node, _ALLOWED_NODES):
        raise TemplateError(f"it uses {type(node).__name__.lower()}, which is not allowed here")
    if isinstance(node, nodes.For):
        loops += 1
        if isinstance(node.target, nodes.Tuple):  # pongo2 gives key and value of a map
            node.iter = nodes.Filter(node.iter, "items", [], [], None, None)
        if node.recursive or loops > MAX_LOOP_DEPTH:
            raise TemplateError(f"its loops nest more than {MAX_LOOP_DEPTH} deep")
    if isinstance(node, nodes.Assign) and loops:
        raise TemplateError("it sets a variable in a loop")
    for child in node.iter_child_nodes():
        _check(child, loops, budget)


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> jinja2.Template:
    tree = _ENV.parse(translate(text))
    _check(tree, 0, [MAX_NODES])
    return jinja2.Template.from_code(_ENV, _ENV.compile(tree), {})


def render(text: str, variables: Mapping[str, Any]) -> str:
    """The text with every tag evaluated.

    :raises TemplateError: a syntax error, something not allowed, or more than 4 MiB of output.
    """
    try:
        parts, size = [], 0
        for part in _compiled(text).generate(variables):
            size += len(part)
            if size > MAX_OUTPUT:
                raise TemplateError(f"its output is longer than {MAX_OUTPUT} characters")
            parts.append(part)
    except (jinja2.TemplateError, RecursionError, TypeError, ValueError, LookupError) as exc:
        raise TemplateError(" ".join(str(exc).split())[:200]) from exc
    return "".join(parts)
