# SPDX-License-Identifier: Apache-2.0
"""Directives that print the driver's and the tests' own tables; they need no Nova.

``.. lxd-options::`` lists every option of nova.conf's section ``[lxd]``, ``.. support-matrix::
FILE`` a support matrix, one section per row (see ``reference/support-matrix.ini``), and
``.. test-parts::`` the parts of ``./runtests``.
"""

from __future__ import annotations

import configparser
import inspect
from pathlib import Path
from typing import Any, ClassVar

from coverage_tables import table
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


class LxdOptions(SphinxDirective):
    """Every option, with its type, default and help."""

    def run(self) -> list[nodes.Node]:
        from nova_lxd.virt import conf

        lines: list[str] = []
        for option in conf.ALL_OPTS:
            lines += _describe(option)
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source=conf.__file__), 0, box)
        return list(box.children)


def _describe(option: Any) -> list[str]:
    facts = [f"Type: {option.type.type_name}"]
    if getattr(option.type, "choices", None):
        facts.append("one of " + ", ".join(f"``{choice}``" for choice in option.type.choices))
    if getattr(option.type, "min", None) is not None:
        facts.append(f"at least {option.type.min}")
    default = "unset" if option.default is None else f"``{_text(option.default)}``"
    text = inspect.cleandoc(option.help).splitlines()
    body = ["; ".join(facts) + f". Default: {default}.", "", *text, ""]
    return [f"``{option.name}``", *(f"    {line}" if line else "" for line in body)]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class SupportMatrix(SphinxDirective):
    """The rows of an ini file beside each other."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.relfn2path(self.arguments[0])[1])
        self.env.note_dependency(str(path))
        matrix = configparser.ConfigParser()
        matrix.read_string(path.read_text(encoding="utf-8"))
        rows = [
            (
                name,
                matrix[name]["title"],
                matrix[name]["kvm"],
                matrix[name]["lxd"],
                " ".join(matrix[name].get("note", "").split()),
            )
            for name in matrix.sections()
        ]
        return [table(("Row", "Feature", "libvirt, KVM x86", "this driver", "Note"), rows)]


class TestParts(SphinxDirective):
    """What ./runtests runs, part by part."""

    def run(self) -> list[nodes.Node]:
        from testrun.parts import PARTS

        rows = [(part.name, part.doc, "a share" if part.share else "all") for part in PARTS]
        return [table(("Part", "What it does", "CI runs"), rows)]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("lxd-options", LxdOptions)
    app.add_directive("support-matrix", SupportMatrix)
    app.add_directive("test-parts", TestParts)
    return {"parallel_read_safe": True}
