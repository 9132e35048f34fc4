# SPDX-License-Identifier: Apache-2.0
"""``filter=``: LXD's small expression language over API objects (``name eq c1 and …``)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nova_lxd.lxd.api import patterns
from nova_lxd.lxd.errors import BadRequest

_MAX_LENGTH = 4096


@dataclass(frozen=True)
class _Clause:
    """One comparison; ``joined_by`` links it to the clauses before it."""

    joined_by: str
    negated: bool
    field: str
    operator: str
    value: str

    def matches(self, item: Mapping[str, Any]) -> bool:
        found = _value_of(item, self.field)
        return self._compare(found) != self.negated

    def _compare(self, found: Any) -> bool:
        equal = _equal(found, self.value)
        return equal if self.operator == "eq" else not equal


def _value_of(item: Mapping[str, Any], path: str) -> Any:
    """A field by dotted path; keys of config maps hold dots themselves."""
    value: Any = item
    rest = path
    while isinstance(value, Mapping):
        if rest in value:
            return value[rest]
        head, dot, rest = rest.partition(".")
        if not dot or head not in value:
            return None
        value = value[head]
    return None


def _equal(found: Any, wanted: str) -> bool:
    if isinstance(found, bool):
        return str(found).lower() == wanted.lower()
    if isinstance(found, int):
        return str(found) == wanted
    text = "" if found is None else str(found)
    if text.lower() == wanted.lower():
        return True
    try:
        return patterns.matches(wanted, text)
    except patterns.PatternError:
        return False


def _parse(expression: str) -> list[_Clause]:
    if len(expression) > _MAX_LENGTH:
        raise BadRequest("Invalid filter: it is too long")
    try:
        words = shlex.split(expression)
    except ValueError as exc:
        raise BadRequest(f"Invalid filter: {exc}") from exc
    clauses: list[_Clause] = []
    joined_by = "and"
    position = 0
    while position < len(words):
        negated = words[position] == "not"
        position += negated
        chunk = words[position : position + 3]
        if len(chunk) < 3:
            raise BadRequest("Invalid filter: incomplete clause")
        field, operator, value = chunk
        if operator not in ("eq", "ne"):
            raise BadRequest(f"Invalid filter: unknown operator {operator!r}")
        clauses.append(_Clause(joined_by, negated, field, operator, value))
        position += 3
        if position < len(words):
            joined_by = words[position]
            if joined_by not in ("and", "or"):
                raise BadRequest(f"Invalid filter: unknown logical operator {joined_by!r}")
            position += 1
            if position == len(words):
                raise BadRequest("Invalid filter: unterminated clause")
    return clauses


def apply_filter(items: Sequence[dict[str, Any]], expression: str) -> list[dict[str, Any]]:
    """The items that match; all of them for an empty expression.

    :raises BadRequest: the expression is malformed.
    """
    if not expression:
        return list(items)
    clauses = _parse(expression)

    def keep(item: dict[str, Any]) -> bool:
        result = True
        for clause in clauses:
            if clause.joined_by == "and":
                result = result and clause.matches(item)
            else:
                result = result or clause.matches(item)
        return result

    return [item for item in items if keep(item)]
