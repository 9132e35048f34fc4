# SPDX-License-Identifier: Apache-2.0
"""Config keys as data: name, validator, default, scope and one sentence, declared once.

Validation, the reference pages and ``/1.0``'s defaults are all made from these tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nova_lxd.lxd.errors import BadRequest

Validator = Callable[[str], str | None]
"""Takes a non-empty value; returns what is wrong with it, or None."""

_SIZE = re.compile(r"[0-9]+ ?(B|kB|KB|MB|GB|TB|PB|EB|KiB|MiB|GiB|TiB|PiB|EiB|k|M|G|T)?\Z")


def any_text(_value: str) -> str | None:
    return None


def given(config: Mapping[str, str]) -> dict[str, str]:
    """The keys that have a value: a client unsets a key by an empty one."""
    return {key: value for key, value in config.items() if value != ""}


def boolean(value: str) -> str | None:
    if value.lower() in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        return None
    return "it is not a boolean"


def is_true(value: str | None) -> bool:
    """LXD's reading of a boolean key."""
    return (value or "").lower() in ("true", "1", "yes", "on")


def integer(low: int = -(2**63), high: int = 2**63 - 1) -> Validator:
    """A decimal number between ``low`` and ``high``."""

    def check(value: str) -> str | None:
        try:
            number = int(value)
        except ValueError:
            return "it is not an integer"
        return None if low <= number <= high else f"it is not between {low} and {high}"

    return check


def one_of(*choices: str) -> Validator:
    def check(value: str) -> str | None:
        return None if value in choices else f"it is not one of {', '.join(choices)}"

    return check


def size(value: str) -> str | None:
    """A number of bytes in LXD's units."""
    return None if _SIZE.match(value) else "it is not a size such as 10GiB"


def list_of(inner: Validator) -> Validator:
    """A comma-separated list."""

    def check(value: str) -> str | None:
        for item in value.split(","):
            problem = inner(item.strip())
            if problem:
                return f"item {item.strip()!r}: {problem}"
        return None

    return check


@dataclass(frozen=True)
class Key:
    """One config key.

    :param name: the key, or a prefix ending in ``.`` or ``*`` that stands for a family.
    :param kind: type word for the docs (string, bool, integer, size).
    :param live: a change applies to a running instance at once.
    """

    name: str
    kind: str
    doc: str
    check: Validator = any_text
    default: str = ""
    live: bool = True
    scope: str = ""

    @property
    def is_family(self) -> bool:
        return self.name.endswith((".", "*"))


class KeyTable:
    """A set of keys of one kind of object."""

    def __init__(self, what: str, keys: Iterable[Key]) -> None:
        self.what = what
        self.keys: dict[str, Key] = {}
        self.families: list[Key] = []
        for key in keys:
            if key.is_family:
                self.families.append(key)
            else:
                self.keys[key.name] = key

    def find(self, name: str) -> Key | None:
        """The declaration that covers ``name``."""
        key = self.keys.get(name)
        if key is not None:
            return key
        for family in self.families:
            prefix = family.name.rstrip("*")
            if name.startswith(prefix) and len(name) > len(prefix):
                return family
        return None

    def validate(self, config: Mapping[str, str]) -> None:
        """Check every key and value.

        :raises BadRequest: a key is unknown or a value invalid.
        """
        for name, value in config.items():
            key = self.find(name)
            if key is None or len(name) > 255:
                raise BadRequest(f"Unknown configuration key: {name[:255]!r} ({self.what})")
            problem = key.check(value) if value else None
            if problem is None and "\0" in value:
                problem = "it contains a NUL byte"
            if problem:
                raise BadRequest(f"Invalid value for {self.what} option {name!r}: {problem}")

    def value(self, config: Mapping[str, str], name: str) -> str:
        """The set value of ``name``, or its default."""
        return config.get(name) or self.keys[name].default
