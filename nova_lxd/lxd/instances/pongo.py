# SPDX-License-Identifier: Apache-2.0
"""The template language of LXD's images (pongo2) on Jinja2: no code, no loops without end.

A template may only read the variables it is given: it has no globals, calls nothing but
``config_get``, loops over given values at most two deep, and builds no text by multiplication.
What it makes on the way (texts, lists, turns of a loop) is counted against a budget, and its
output is bounded, too: it is rendered in the daemon.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nova_lxd.lxd.instances.pongosyntax import translate

MAX_OUTPUT = 4 * 1024 * 1024
MAX_LOOP_DEPTH = 2
MAX_NODES = 20_000
#: What one rendering may make: a character or an element of a list costs one.
BUDGET = 4 * MAX_OUTPUT
_TURN = 64  # what one turn of a loop costs
_CACHED_LENGTH = 64 * 1024


class TemplateError(Exception):
    """The template cannot be rendered; the text says why."""


# What Jinja2, Python's compiler (too deep a nesting) and the filters raise about a template.
_FAILURES = (
    jinja2.TemplateError,
    SyntaxError,
    RecursionError,
    MemoryError,
    AttributeError,
    ArithmeticError,
    TypeError,
    ValueError,
    LookupError,
)


class _Account(threading.local):
    """What the rendering of this thread may still make."""

    left = 0

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise TemplateError("it makes more of texts and loops than is allowed")


_ACCOUNT = _Account()


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | Mapping) else 1


def _made(value: Any) -> Any:
    """Count what was made."""
    _ACCOUNT.spend(_size(value))
    return value


def _counted(value: Any) -> Any:
    """Count the turns of a loop over a value."""
    _ACCOUNT.spend(_TURN * (1 + _size(value)))
    return value


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, jinja2.Undefined) else str(value)


def _default(value: Any, other: Any = "") -> Any:
    return value if value and not isinstance(value, jinja2.Undefined) else other


def _yesno(value: Any, words: str = "yes,no") -> str:
    yes, _, rest = _text(words).partition(",")
    return yes if value else rest.partition(",")[0]


def _join(value: Any, separator: Any = "") -> str:
    parts, between = [_text(item) for item in value], _text(separator)
    _ACCOUNT.spend(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _counting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return _made(function(*args))

    return call


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
    "join": _join,
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
)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-"))

    def call_binop(self, _context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if numbers:
            return left + right if operator == "+" else left - right
        if operator != "+":
            raise TemplateError("it computes with what are no numbers")
        return _made(_text(left) + _text(right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _made(super().getitem(obj, argument))

    def is_safe_callable(self, obj: Any) -> bool:
        return getattr(obj, "__name__", "") == "config_get"


def _environment() -> _Environment:
    # Not optimised: nothing may be computed before there is a budget for it.
    env = _Environment(
        keep_trailing_newline=True, autoescape=False, finalize=_finalize, optimized=False
    )
    env.globals.clear()
    env.filters.clear()
    env.filters.update({name: _counting(function) for name, function in _FILTERS.items()})
    env.filters["counted"] = _counted
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
        node.iter = nodes.Filter(node.iter, "counted", [], [], None, None)
        if node.recursive or loops > MAX_LOOP_DEPTH:
            raise TemplateError(f"its loops nest more than {MAX_LOOP_DEPTH} deep")
    if isinstance(node, nodes.Assign) and loops:
        raise TemplateError("it sets a variable in a loop")
    for child in node.iter_child_nodes():
        _check(child, loops, budget)


def _compile(text: str) -> jinja2.Template:
    tree = _ENV.parse(translate(text))
    _check(tree, 0, [MAX_NODES])
    return jinja2.Template.from_code(_ENV, _ENV.compile(tree), {})


_compiled = functools.lru_cache(maxsize=256)(_compile)


def render(text: str, variables: Mapping[str, Any]) -> str:
    """The text with every tag evaluated.

    :raises TemplateError: a syntax error, something not allowed, or more work or output than is
        allowed.
    """
    _ACCOUNT.left = BUDGET
    try:
        parts, size = [], 0
        template = (_compiled if len(text) < _CACHED_LENGTH else _compile)(text)
        for part in template.generate(variables):
            size += len(part)
            if size > MAX_OUTPUT:
                raise TemplateError(f"its output is longer than {MAX_OUTPUT} characters")
            parts.append(part)
    except _FAILURES as exc:
        raise TemplateError(" ".join(str(exc).split())[:200] or type(exc).__name__) from exc
    return "".join(parts)
