# SPDX-License-Identifier: Apache-2.0
"""LXD's time spans, such as ``1M 2H 3d 4w 5m 6y`` (minutes, hours, days, weeks, months, years)."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta

_PART = re.compile(r"(\d{1,6})\s*([MHdwmy])")


def after(span: str, start: float) -> float:
    """The UNIX time that is ``span`` after ``start``; ``start`` must be one of this calendar."""
    when = datetime.fromtimestamp(start, UTC)
    for number, unit in _PART.findall(span):
        count = int(number)
        if unit in "my":
            when = _months(when, count * (12 if unit == "y" else 1))
        else:
            when += {
                "M": timedelta(minutes=1),
                "H": timedelta(hours=1),
                "d": timedelta(days=1),
                "w": timedelta(weeks=1),
            }[unit] * count
    return when.timestamp()


def _months(when: datetime, count: int) -> datetime:
    total = when.year * 12 + when.month - 1 + count
    year, month = min(total // 12, 9999), total % 12 + 1
    day = min(when.day, calendar.monthrange(year, month)[1])
    return when.replace(year=year, month=month, day=day)
