# SPDX-License-Identifier: Apache-2.0
"""``snapshots.schedule``: a five-field cron expression, or aliases such as ``@daily``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@annually": "0 0 1 1 *",
    "@yearly": "0 0 1 1 *",
}
# Taken when the instance starts rather than at a time.
STARTUP = "@startup"
NEVER = "@never"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True)
class Spec:
    """One cron line: the values each field allows, and whether the two day fields are free."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    def matches(self, when: datetime) -> bool:
        """Is the minute of ``when`` one of the schedule's?"""
        if when.minute not in self.minutes or when.hour not in self.hours:
            return False
        if when.month not in self.months:
            return False
        day = when.day in self.days
        weekday = when.isoweekday() % 7 in self.weekdays
        # cron's rule: two restricted day fields are alternatives.
        if self.any_day or self.any_weekday:
            return day and weekday
        return day or weekday


@dataclass(frozen=True)
class Schedule:
    """A parsed schedule."""

    specs: tuple[Spec, ...] = ()
    at_startup: bool = False

    def matches(self, when: datetime) -> bool:
        """Is a snapshot due in the minute of ``when`` (local time)?"""
        return any(spec.matches(when) for spec in self.specs)


def parse(text: str) -> Schedule:
    """The schedule of a config value.

    :raises ValueError: what is wrong with it.
    """
    value = text.strip()
    if not value.startswith("@"):
        return Schedule((_spec(value),))
    specs = []
    startup = False
    for word in (w for part in value.split(",") for w in part.split()):
        if word == STARTUP:
            startup = True
        elif word == NEVER:
            continue
        elif word in _ALIASES:
            specs.append(_spec(_ALIASES[word]))
        else:
            raise ValueError(f"Schedule alias {word[:32]!r} is unknown")
    return Schedule(tuple(specs), startup)


def _spec(line: str) -> Spec:
    fields = line.split()
    if len(fields) != 5:
        raise ValueError("Schedule must be of the form: <minute> <hour> <day> <month> <weekday>")
    minutes, hours, days, months, weekdays = fields
    parsed_weekdays = _field(weekdays, 0, 7, _DAYS)
    return Spec(
        _field(minutes, 0, 59),
        _field(hours, 0, 23),
        _field(days, 1, 31),
        _field(months, 1, 12, _MONTHS, 1),
        frozenset(day % 7 for day in parsed_weekdays),
        days[0] in "*?",
        weekdays[0] in "*?",
    )


def _field(
    text: str, low: int, high: int, names: tuple[str, ...] = (), first: int = 0
) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step_text = part.partition("/")
        step = _number(step_text, 1, 1 << 16) if step_text else 1
        if span in ("*", "?"):
            start, end = low, high
        else:
            left, dash, right = span.partition("-")
            start = _value(left, low, high, names, first)
            if dash:
                end = _value(right, low, high, names, first)
            else:
                end = high if step_text else start
        if end < start:
            raise ValueError(f"Schedule field {part[:32]!r} runs backwards")
        values.update(range(start, end + 1, step))
    return frozenset(values)


def _value(text: str, low: int, high: int, names: tuple[str, ...], first: int) -> int:
    word = text.lower()[:3]
    if word in names and len(text) >= 3:
        return names.index(word) + first
    return _number(text, low, high)


def _number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6) or not low <= int(text) <= high:
        raise ValueError(f"Schedule value {text[:32]!r} is not in {low}-{high}")
    return int(text)


def schedule(value: str) -> str | None:
    """Validator of config keys: what is wrong with a schedule, or None."""
    try:
        parse(value)
    except ValueError as exc:
        return str(exc)
    return None
