# SPDX-License-Identifier: Apache-2.0
"""A table and a chart of results side by side."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.cases import WANTED
from benchmarks.subject import Result

_BAR, _LABEL, _SPAN = 18, 250, 420
_COLUMNS = ("what", "unit", "samples")


def _pairs(results: Mapping[str, Sequence[Result]]) -> list[tuple[Result, Result | None]]:
    """Each measurement of the first daemon with its counterpart of the second."""
    first, *others = results.values()
    counterparts = {each.name: each for each in others[0]} if others else {}
    return [(result, counterparts.get(result.name)) for result in first]


def ratio(measure: Result, other: Result | None) -> float | None:
    """How ``other`` compares; None where it cannot be told."""
    if other is None:
        return None
    if other.median == measure.median:  # both use no processor time, say
        return 1.0
    return other.median / measure.median if measure.median else None


def met(measure: Result, found: float) -> bool | None:
    """Whether a ratio is what is wanted; None where nothing is."""
    wanted = WANTED.get(measure.name)
    if wanted is None:
        return None
    return found <= wanted if measure.smaller_is_better else found >= wanted


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def rows(results: Mapping[str, Sequence[Result]]) -> list[list[str]]:
    """Medians, ratio, what was wanted and whether it was met; the head first."""
    names = list(results)
    found = [[*_COLUMNS, *names, *(["ratio", "wanted", "met"] if len(names) > 1 else [])]]
    for result, other in _pairs(results):
        cells = [result.name, result.unit, str(len(result.samples)), _number(result.median)]
        if len(names) > 1:
            compared = ratio(result, other)
            sign = "≤" if result.smaller_is_better else "≥"
            wanted = WANTED.get(result.name)
            cells += [
                _number(other.median) if other else "-",
                "-" if compared is None else f"{compared:.2f}",
                "" if wanted is None else f"{sign} {wanted:g}",
                {True: "yes", False: "NO", None: ""}[
                    None if compared is None else met(result, compared)
                ],
            ]
        found.append(cells)
    return found


def markdown(results: Mapping[str, Sequence[Result]]) -> str:
    """The table for a terminal."""
    lines = rows(results)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def list_table(cells: Sequence[Sequence[str]]) -> str:
    """A table for the documentation, the head first, and where it was measured."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in cells:
        lines += [f"   {'*' if not index else ' '} - {cell}" for index, cell in enumerate(row)]
    found = machine()
    lines += [
        "",
        f"Measured on {found['time'][:10]}: Linux {found['kernel']}, {found['architecture']},",
        f"{found['cores']} cores, {found['memory_mb'] / 1024:.0f} GiB, a load of"
        f" {found['load']:.1f} at the end.",
    ]
    return "\n".join([*lines, ""])


def rst(results: Mapping[str, Sequence[Result]]) -> str:
    """The table for the documentation."""
    return list_table(rows(results))


def machine() -> dict[str, Any]:
    """Where and when it was measured."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        memory = int(meminfo.readline().split()[1]) // 1024
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_mb": memory,
        "load": os.getloadavg()[0],
    }


def as_json(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Everything, machine-readable."""
    return {
        "machine": machine(),
        "results": {
            name: [vars(each) | {"median": each.median} for each in found]
            for name, found in results.items()
        },
    }


def chart(results: Mapping[str, Sequence[Result]]) -> str:
    """An SVG of the second daemon's cost as a share of the first's (short bars are good)."""
    names = list(results)
    bars: list[tuple[str, float, float | None]] = []
    for result, other in _pairs(results):
        compared = ratio(result, other)
        if not compared:
            continue
        wanted = WANTED.get(result.name)
        if not result.smaller_is_better:
            compared, wanted = 1 / compared, wanted and 1 / wanted
        bars.append((result.name, compared, wanted))
    step, unit = _BAR + 6, _SPAN / 2
    height = (len(bars) + 2) * step
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _SPAN + 80}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LABEL}" y="16">cost of {escape(names[-1])}; red line: {escape(names[0])}; '
        "ticks: wanted</text>",
    ]
    for index, (label, cost, wanted) in enumerate(bars):
        y = (index + 1) * step
        width = min(cost, 2) * unit
        colour = "#b65" if wanted is not None and cost > wanted else "#47a"
        parts += [
            f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{width:.0f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LABEL + width + 6:.0f}" y="{y + 13}">{cost:.2f}</text>',
        ]
        if wanted is not None:
            x = _LABEL + wanted * unit
            parts.append(
                f'<line x1="{x:.0f}" y1="{y - 2}" x2="{x:.0f}" y2="{y + _BAR + 2}" stroke="#000"/>'
            )
    x = _LABEL + unit
    parts.append(f'<line x1="{x}" y1="22" x2="{x}" y2="{height}" stroke="#a33"/>')
    return "\n".join([*parts, "</svg>", ""])
