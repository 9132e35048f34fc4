# SPDX-License-Identifier: Apache-2.0
"""Configuration files in oslo.config's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cloud.layout import write_private

Value = str | int | bool
Sections = Mapping[str, Mapping[str, Value]]


def render(sections: Sections) -> str:
    """``sections`` as text; sections in the order given, DEFAULT first if it is first.

    Raises ValueError for a value with a line break, which would start another option.
    """
    lines = ["# Written by quickstart at every 'up': changes here are lost."]
    for section, options in sections.items():
        lines.append(f"\n[{section}]")
        for name, value in options.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if "\n" in text:
                raise ValueError(f"[{section}] {name} holds a line break")
            # oslo.config substitutes $name; a literal dollar sign is written twice.
            lines.append(f"{name} = {text.replace('$', '$$')}".rstrip())
    return "\n".join(lines) + "\n"


def write(path: Path, sections: Sections) -> bool:
    """Write a configuration file (mode 0600); returns whether it changed."""
    return write_private(path, render(sections))
