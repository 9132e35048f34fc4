# SPDX-License-Identifier: Apache-2.0
"""The tests of the chosen classes that are not run, each with the reason.

Keys are ``Class.test`` or ``Class`` for all of it.
"""

from __future__ import annotations

EXCLUDED: dict[str, str] = {}


def reason(class_name: str, test: str) -> str | None:
    """Return why a test is not run; None when it is."""
    return EXCLUDED.get(f"{class_name}.{test}") or EXCLUDED.get(class_name)
