# SPDX-License-Identifier: Apache-2.0
"""A table and a chart of results side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from benchmarks.subject import Result

_BAR, _LABEL, _SPAN = 18, 280, 400


def _rows(results: Mapping[str, Sequence[Result]]) -> list[tuple[Result, dict[str, Result]]]:
    """Each measurement of the first back end with its counterparts of the others."""
    first, *others = results
    found = []
    for result in results[first]:
        same = {
            name: each for name in others for each in results[name] if each.name == result.name
        }
        found.append((result, same))
    return found


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Medians and their ratios to the first back end, as a Markdown table."""
    first, *others = results
    head = ["what", "unit", first]
    for name in others:
        head += [name, "ratio"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result, same in _rows(results):
        cells = [result.name, result.unit, _number(result.median)]
        for name in others:
            other = same.get(name)
            if other is None:
                cells += ["-", "-"]
            else:
                ratio = f"{other.median / result.median:.2f}" if result.median else "-"
                cells += [_number(other.median), ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(results: Mapping[str, Sequence[Result]]) -> str:
    """An SVG of the second back end's cost as a share of the first's (short bars are good)."""
    names = list(results)
    bars = []
    for result, same in _rows(results):
        other = same.get(names[1]) if len(names) > 1 else None
        if other is None or not result.median or not other.median:
            continue
        ratio = other.median / result.median
        bars.append((result.name, ratio if result.smaller_is_better else 1 / ratio))
    height = (len(bars) + 2) * (_BAR + 6)
    unit = _SPAN / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _SPAN + 80}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<text x="{_LABEL}" y="16">cost of {escape(names[-1])}; the line is {escape(names[0])}'
        "</text>",
    ]
    for index, (label, ratio) in enumerate(bars):
        y = (index + 1) * (_BAR + 6)
        width = min(ratio, 2) * unit
        parts.append(
            f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>'
        )
        parts.append(
            f'<rect x="{_LABEL}" y="{y}" width="{width:.0f}" height="{_BAR}" fill="#47a"/>'
        )
        parts.append(f'<text x="{_LABEL + width + 6:.0f}" y="{y + 13}">{ratio:.2f}</text>')
    x = _LABEL + unit
    parts.append(f'<line x1="{x}" y1="22" x2="{x}" y2="{height}" stroke="#a33"/>')
    return "\n".join([*parts, "</svg>", ""])
