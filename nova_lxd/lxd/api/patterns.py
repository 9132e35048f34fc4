# SPDX-License-Identifier: Apache-2.0
"""Regular expressions of clients, matched in time proportional to pattern times text.

LXD's are Go's, which cannot be made slow.  Python's backtrack: one filter of twenty characters
could hold the interpreter's lock, and with it the daemon, for years.  So the common part of Go's
syntax is compiled into a small program here whose states are all followed at once (Thompson's
method).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

#: The largest program, in instructions; counted repetitions are written out.
MAX_PROGRAM = 2000
#: The most steps of one match.
MAX_STEPS = 4_000_000
_MAX_DEPTH = 50
_MAX_REPEAT = 1000

Test = Callable[[str], bool]
_CLASSES: dict[str, Test] = {
    "d": lambda c: "0" <= c <= "9",
    "w": lambda c: c.isascii() and (c.isalnum() or c == "_"),
    "s": lambda c: c in "\t\n\f\r ",
}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}


class PatternError(ValueError):
    """The pattern is malformed, beyond what is supported, or too large."""


@dataclass(frozen=True)
class _One:
    """One character that passes a test."""

    test: Test


@dataclass(frozen=True)
class _Place:
    """The beginning (``^``) or end (``$``) of the text."""

    kind: str


@dataclass(frozen=True)
class _Jump:
    """Go on at each of these instructions, relative to this one."""

    targets: tuple[int, ...]


_Instruction = _One | _Place | _Jump
_Program = tuple[_Instruction, ...]


class _Parser:
    """Recursive descent; each rule returns a program that ends behind itself."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def program(self) -> _Program:
        found = self._alternatives()
        if self._at < len(self._text):
            raise PatternError("unbalanced parenthesis")
        return found

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        found = self._peek()
        if not found:
            raise PatternError("the pattern ends too early")
        self._at += 1
        return found

    def _accept(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _alternatives(self) -> _Program:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PatternError("it nests too deep")
        found = self._sequence()
        while self._accept("|"):
            other = self._sequence()
            found = _limited(
                (_Jump((1, len(found) + 2)), *found, _Jump((len(other) + 1,)), *other)
            )
        self._depth -= 1
        return found

    def _sequence(self) -> _Program:
        found: _Program = ()
        while self._peek() not in ("", "|", ")"):
            found = _limited((*found, *self._repeated(self._atom())))
        return found

    def _repeated(self, body: _Program) -> _Program:
        while (mark := self._peek()) and mark in "*+?{":
            start = self._at
            self._at += 1
            if mark == "{":
                counts = self._counts()
                if counts is None:  # Go takes it for a plain brace
                    self._at = start
                    return body
                body = _times(body, *counts)
            else:
                body = _times(body, 1 if mark == "+" else 0, 1 if mark == "?" else None)
            self._accept("?")  # which match is found does not matter
        return body

    def _counts(self) -> tuple[int, int | None] | None:
        inner, closed, _ = self._text[self._at :].partition("}")
        low, comma, high = inner.partition(",")
        digits = [low, high] if high else [low]
        if not closed or not all(d.isascii() and d.isdigit() and len(d) < 5 for d in digits):
            return None
        self._at += len(inner) + 1
        least = int(low)
        most = int(high) if high else (None if comma else least)
        if least > _MAX_REPEAT or (most is not None and not least <= most <= _MAX_REPEAT):
            raise PatternError("a repetition is invalid")
        return least, most

    def _atom(self) -> _Program:
        char = self._next()
        if char == "(":
            self._accept("?:")
            if self._peek() == "?":
                raise PatternError("flags and named groups are not supported")
            found = self._alternatives()
            if not self._accept(")"):
                raise PatternError("missing closing parenthesis")
            return found
        if char == "[":
            return (_One(self._set()),)
        if char == ".":
            return (_One(lambda c: c != "\n"),)
        if char in "^$":
            return (_Place(char),)
        if char == "\\":
            return (_One(self._escape()),)
        if char in "*+?":
            raise PatternError("nothing to repeat")
        return (_One(_same(char)),)

    def _escape(self) -> Test:
        char = self._next()
        if char.lower() in _CLASSES:
            test = _CLASSES[char.lower()]
            return test if char.islower() else (lambda c: not test(c))
        if char in _CONTROLS:
            return _same(_CONTROLS[char])
        if char.isalnum():
            raise PatternError(f"\\{char} is not supported")
        return _same(char)

    def _set(self) -> Test:
        negated = self._accept("^")
        tests: list[Test] = []
        while not tests or self._peek() != "]":
            if self._text.startswith("[:", self._at):
                raise PatternError("named classes are not supported")
            tests.append(self._range())
        self._at += 1
        return lambda c: any(test(c) for test in tests) != negated

    def _range(self) -> Test:
        first = self._next()
        if first == "\\":
            return self._escape()
        rest = self._text[self._at : self._at + 2]
        if len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return _same(first)
        self._at += 1
        last = self._next()
        if last == "\\" or last < first:
            raise PatternError("a range of characters is invalid")
        return lambda c: first <= c <= last or first <= c.swapcase() <= last


def _same(char: str) -> Test:
    lower = char.lower()
    return lambda c: c.lower() == lower


def _limited(program: _Program) -> _Program:
    if len(program) > MAX_PROGRAM:
        raise PatternError("it is too large")
    return program


def _times(body: _Program, least: int, most: int | None) -> _Program:
    """A program repeated; ``most`` is None for without end."""
    if len(body) * max(least, most or 0) > MAX_PROGRAM:
        raise PatternError("it is too large")
    found = body * least
    if most is None:
        found += (_Jump((1, len(body) + 2)), *body, _Jump((-len(body) - 1,)))
    else:
        found += (_Jump((1, len(body) + 1)), *body) * (most - least)
    return _limited(found)


@functools.lru_cache(maxsize=128)
def _compiled(pattern: str) -> _Program:
    return _Parser(pattern).program()


class _Match:
    """One run of a program over a text."""

    def __init__(self, program: _Program, length: int) -> None:
        self._program = program
        self._length = length
        self._steps = MAX_STEPS

    def reached(self, starts: list[int], at: int) -> set[int]:
        """The instructions that are next before the character ``at``, all jumps followed."""
        found: set[int] = set()
        while starts:
            place = starts.pop()
            if place in found:
                continue
            found.add(place)
            self._steps -= 1
            if place == len(self._program):
                continue
            instruction = self._program[place]
            if isinstance(instruction, _Jump):
                starts += [place + target for target in instruction.targets]
            elif isinstance(instruction, _Place) and at == (
                0 if instruction.kind == "^" else self._length
            ):
                starts.append(place + 1)
        if self._steps < 0:
            raise PatternError("it needs too many steps")
        return found

    def after(self, states: set[int], char: str) -> list[int]:
        """The instructions behind those that take the character."""
        found = []
        for place in states:
            instruction = self._program[place] if place < len(self._program) else None
            if isinstance(instruction, _One) and instruction.test(char):
                found.append(place + 1)
        return found


def matches(pattern: str, text: str) -> bool:
    """Does the pattern match the text, the case of letters aside?

    As in LXD it has to match all of the text, unless it says where with ``^`` or ``$``.

    :raises PatternError: it is malformed, uses what is not supported, or is too costly.
    """
    anchored = "^" not in pattern and "$" not in pattern
    program = _compiled(pattern)
    match = _Match(program, len(text))
    end = len(program)
    states = match.reached([0], 0)
    for at, char in enumerate(text):
        if end in states and not anchored:
            return True
        starts = match.after(states, char)
        if not anchored:
            starts.append(0)
        elif not starts:
            return False
        states = match.reached(starts, at + 1)
    return end in states
