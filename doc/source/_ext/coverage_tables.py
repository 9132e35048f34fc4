# SPDX-License-Identifier: Apache-2.0
"""Directives that print the daemon's own tables, so that the reference cannot lie.

``.. api-routes::`` lists every endpoint, ``.. api-extensions::`` the extensions that the daemon
names, ``.. config-keys:: MODULE:TABLE`` a table of config keys.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive

_PARAMETER = re.compile(r"\{(\w+):[^}]*\}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> nodes.table:
    """A table of text, first column in literals."""
    result = nodes.table()
    group = nodes.tgroup(cols=len(header))
    result += group
    for _ in header:
        group += nodes.colspec(colwidth=1)
    head, body = nodes.thead(), nodes.tbody()
    group += head
    group += body
    head += _row(header, literal=False)
    for row in rows:
        body += _row(row, literal=True)
    return result


def _row(cells: Sequence[str], *, literal: bool) -> nodes.row:
    row = nodes.row()
    for number, cell in enumerate(cells):
        entry = nodes.entry()
        paragraph = nodes.paragraph()
        if literal and number == 0:
            paragraph += nodes.literal(text=cell)
        else:
            paragraph += nodes.Text(cell)
        entry += paragraph
        row += entry
    return row


class ApiRoutes(Directive):
    """Every endpoint of the route table."""

    def run(self) -> list[nodes.Node]:
        from nova_lxd.lxd import api
        from nova_lxd.lxd.api.routes import ROUTES

        api.load_resources()
        by_path: dict[str, list[Any]] = {}
        for route in ROUTES:
            by_path.setdefault(_PARAMETER.sub(r"{\1}", route.path), []).append(route)
        rows = []
        for path in sorted(by_path):
            for route in by_path[path]:
                who = "local" if route.local else "everybody" if route.public else "trusted"
                rows.append((f"{route.method} {path}", route.summary, who))
        return [table(("Endpoint", "What it does", "For"), rows)]


class ApiExtensions(Directive):
    """The names in ``api_extensions``."""

    def run(self) -> list[nodes.Node]:
        from nova_lxd.lxd.schema.extensions import API_EXTENSIONS

        listing = nodes.bullet_list()
        for name in sorted(set(API_EXTENSIONS)):
            item = nodes.list_item()
            paragraph = nodes.paragraph()
            paragraph += nodes.literal(text=name)
            item += paragraph
            listing += item
        return [listing]


class ConfigKeys(Directive):
    """One table of config keys: ``module:ATTRIBUTE``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        module, _, attribute = self.arguments[0].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        keys = [*found.keys.values(), *found.families]
        rows = [
            (key.name, key.kind, key.default, "yes" if key.live else "at start", key.doc)
            for key in sorted(keys, key=lambda key: key.name)
        ]
        return [table(("Key", "Type", "Default", "Live", "Meaning"), rows)]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("api-routes", ApiRoutes)
    app.add_directive("api-extensions", ApiExtensions)
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
