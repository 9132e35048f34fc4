# SPDX-License-Identifier: Apache-2.0
"""pongo2's spelling of tags in Jinja2's.

A template of any content is translated in time proportional to its length: ``re`` holds the
interpreter's lock, so an expression that looks for the end of a tag again and again would let one
image stop the whole daemon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_OPEN = re.compile(r"\{[{%]")
_CLOSE = {"{{": "}}", "{%": "%}"}
_WORD = re.compile(r"\{%-?\s*([a-z]*)")
_END_COMMENT = re.compile(r"\{%-?\s*endcomment\s*-?%\}")
# An unclosed string goes to the end, so that no attempt is made in vain.
_STRING = re.compile(r"\"(?:\\.|[^\"\\])*(?:\"|\\?\Z)|'(?:\\.|[^'\\])*(?:'|\\?\Z)", re.S)
_FILTER_ARGUMENT = re.compile(r"\|\s*([A-Za-z_]\w*)\s*:\s*(\0\d+\0|[\w.\-]+)")
_IFEQUAL = re.compile(r"\{%(-?)\s*ifequal\s+(\S+)\s+(\S+)\s*(-?)%\}")
_ENDIFEQUAL = re.compile(r"\{%(-?)\s*endifequal\s*(-?)%\}")


def _translate_tag(tag: str) -> str:
    strings: list[str] = []

    def hide(match: re.Match[str]) -> str:
        strings.append(match[0])
        return f"\0{len(strings) - 1}\0"

    text = _STRING.sub(hide, tag)
    text = _FILTER_ARGUMENT.sub(r"|\1(\2)", text)
    text = text.replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"!(?!=)", " not ", text)
    whole: tuple[tuple[re.Pattern[str], str], ...] = (
        (_IFEQUAL, r"{%\1 if \2 == \3 \4%}"),
        (_ENDIFEQUAL, r"{%\1 endif \2%}"),
    )
    for pattern, replacement in whole:
        if match := pattern.fullmatch(text):
            text = match.expand(replacement)
    return re.sub(r"\0(\d+)\0", lambda m: strings[int(m[1])], text)


class _Finder:
    """Finds what ends a tag; after a first failure it does not look again."""

    def __init__(self, find: Callable[[int], int]) -> None:
        self._find = find
        self._none = False

    def after(self, start: int) -> int:
        """Where the first one at or after ``start`` ends; -1 when there is none."""
        if self._none:
            return -1
        found = self._find(start)
        self._none = found < 0
        return found


def _finder(text: str, mark: str) -> _Finder:
    def find(start: int) -> int:
        found = text.find(mark, start)
        return found if found < 0 else found + len(mark)

    return _Finder(find)


def _parts(text: str) -> Iterator[str]:
    def end_of_comment(start: int) -> int:
        found = _END_COMMENT.search(text, start)
        return found.end() if found else -1

    ends = {opening: _finder(text, mark) for opening, mark in _CLOSE.items()}
    comment_ends = _Finder(end_of_comment)
    place = 0
    while opening := _OPEN.search(text, place):
        start = opening.start()
        end = ends[opening[0]].after(opening.end())
        if end < 0:
            yield text[place : opening.end()]
            place = opening.end()
            continue
        yield text[place:start]
        place, tag = end, text[start:end]
        word = match[1] if (match := _WORD.match(tag)) else ""
        past = comment_ends.after(end) if word == "comment" else -1
        if past >= 0:
            place = past
        elif word not in ("autoescape", "endautoescape"):
            yield _translate_tag(tag)
    yield text[place:]


def translate(text: str) -> str:
    """The same template with operators, filter arguments and tags as Jinja2 writes them."""
    return "".join(_parts(text.replace("\0", "")))
