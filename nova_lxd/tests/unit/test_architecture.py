# SPDX-License-Identifier: Apache-2.0
"""The rules of doc/source/contributor/architecture.rst that the import statements can show."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "nova_lxd"
TESTS = PACKAGE / "tests"
LONGEST_FILE = 600
LONGEST_FUNCTION = 60

# The daemon's packages and modules from top to bottom; each may import what stands on a
# line below its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("cli_init",),
    ("cli_interview",),
    ("cli_client", "daemon"),
    ("api", "guest"),
    ("services", "metrics"),
    ("instances", "environment", "trust"),
    ("images", "profiles", "projects"),
    ("storage", "network", "devices"),
    ("ending",),
    ("operations", "serverconfig", "warnings", "logs"),
    ("events", "ownership"),
    ("db",),
    ("schema",),
    ("host", "addresses", "jsontext", "locks"),
    ("paths",),
    ("errors",),
)
# What else may import what: the value that disks take is how custom volumes are handed out, and
# backups of custom volumes are archives as images are.
EXCEPTIONS = {
    ("devices", "network"),
    ("devices", "storage"),
    ("guest", "api"),
    ("storage", "devices"),
    ("storage", "images"),
}
FOREIGN = ("nova", "os_vif", "os_brick", "pylxd", "eventlet", "oslo_config", "oslo_log")


def modules(top: Path) -> list[Path]:
    """The Python files below a directory, without the tests."""
    return sorted(path for path in top.rglob("*.py") if TESTS not in path.parents)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports when it runs, also inside functions.

    Imports for the type checker alone are left out.
    """
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    pending: list[ast.AST] = [parsed(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            pending += ast.iter_child_nodes(node)


def part(module: str) -> str:
    """The package or module of the daemon that a dotted name is in; "" for anything else."""
    words = module.split(".")
    return words[2] if words[:2] == ["nova_lxd", "lxd"] and len(words) > 2 else ""


def level(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def parts() -> set[str]:
    return {path.stem for path in (PACKAGE / "lxd").iterdir() if _is_module(path)}


def _is_module(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").exists()
    return path.suffix == ".py" and path.stem != "__init__"


def test_every_part_has_a_layer() -> None:
    assert parts() == {name for layer in LAYERS for name in layer}


@pytest.mark.parametrize("name", sorted(name for layer in LAYERS for name in layer))
def test_arrows_point_down(name: str) -> None:
    top = PACKAGE / "lxd" / name
    files = modules(top) if top.is_dir() else [top.with_suffix(".py")]
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files
        for module in sorted(imports(path))
        if (other := part(module)) in parts() and other != name
        if level(other) <= level(name) and (name, other) not in EXCEPTIONS
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("half", "refused"),
    [
        ("lxd", ("nova_lxd.virt", "nova_lxd.tests", *FOREIGN)),
        ("virt", ("nova_lxd.lxd", "nova_lxd.tests", "eventlet")),
    ],
)
def test_the_halves_know_nothing_of_each_other(half: str, refused: tuple[str, ...]) -> None:
    def is_refused(module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in refused)

    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in modules(PACKAGE / half)
        for module in sorted(imports(path))
        if is_refused(module)
    ]
    assert wrong == []


def sources() -> list[Path]:
    """The Python sources of the project but its tests, scripts without a suffix included."""
    scripts = [path for path in (REPOSITORY / "tools").rglob("*") if path.is_file()]
    python = [
        path
        for path in scripts
        if path.suffix == ".py" or (not path.suffix and b"python" in path.read_bytes()[:64])
    ]
    return modules(PACKAGE) + sorted(python)


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    long = {str(path.relative_to(REPOSITORY)): n for path, n in lengths.items()}
    assert {name: n for name, n in long.items() if n > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in sources():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"] = lines
    assert long == {}
