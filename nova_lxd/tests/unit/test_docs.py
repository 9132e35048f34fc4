# SPDX-License-Identifier: Apache-2.0
"""What README.md and the documentation name is there: files, options, commands, driver methods.

Nova need not be installed: the driver's source is read, not imported.
"""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_lxd.lxd.cli import parser as daemon_parser

REPOSITORY = Path(__file__).resolve().parents[3]
DOCS = REPOSITORY / "doc" / "source"
README = REPOSITORY / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.rst"))]

sys.path.insert(0, str(REPOSITORY / "tools"))

from cloud.cli import parser as quickstart_parser  # noqa: E402
from testrun.parts import PARTS  # noqa: E402

# What documentation calls an option of the section: [lxd]pool, ``[lxd] pool``.
LXD_OPTION = re.compile(r"\[lxd\] ?([a-z][a-z_]+)")
STATUSES = ("complete", "partial", "missing")


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """Each call of a program in a console example of any page: (page, words after it)."""
    name = re.escape(program)
    call = re.compile(rf"^ *[#$] (?:\w+=\S+ )?{name}((?: .*?)?(?:\\\n.*?)*)$", re.MULTILINE)
    substituted = re.compile(rf"\$\({name}( [^)]*)\)")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for pattern in (call, substituted):
            for match in pattern.finditer(text):
                words = re.split(r"\s(?:[#|<]\s|&$)", match.group(1))[0].replace("\\\n", " ")
                yield str(page.relative_to(REPOSITORY)), words.split()


def driver_class() -> ast.ClassDef:
    source = (REPOSITORY / "nova_lxd/virt/driver.py").read_text(encoding="utf-8")
    return next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "LXDDriver"
    )


def driver_methods() -> set[str]:
    return {node.name for node in driver_class().body if isinstance(node, ast.FunctionDef)}


def driver_capabilities() -> set[str]:
    """The flags that the driver sets, all of them to True."""
    assigned = next(
        node.value
        for node in driver_class().body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "capabilities"
    )
    assert isinstance(assigned, ast.Dict)
    flags = zip(assigned.keys, assigned.values, strict=True)
    return {
        str(ast.literal_eval(key)) for key, value in flags if key and ast.literal_eval(value)
    }


def support_matrix() -> configparser.ConfigParser:
    matrix = configparser.ConfigParser()
    matrix.read_string((DOCS / "reference/support-matrix.ini").read_text(encoding="utf-8"))
    return matrix


def constant(module: str, name: str) -> ast.expr:
    """The expression that a module of the driver gives a name."""
    source = (REPOSITORY / module).read_text(encoding="utf-8")
    return next(
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert len(local) > 10
    assert [link for link in local if not (REPOSITORY / link).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_named_files_of_the_project_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"``?((?:tools|etc|devstack|nova_lxd|benchmarks)/[\w./-]+)``?", text)
    missing = [name for name in named if not (REPOSITORY / name.rstrip("/")).exists()]
    assert missing == []


def test_every_lxd_option_that_is_named_exists() -> None:
    pytest.importorskip("oslo_config", reason="the options need oslo.config")
    from nova_lxd.virt import conf

    known = {option.name for option in conf.ALL_OPTS}
    named = {
        (str(page.relative_to(REPOSITORY)), name)
        for page in PAGES
        for name in LXD_OPTION.findall(page.read_text(encoding="utf-8"))
    }
    for block in re.findall(
        r"^ *\[lxd\]\n((?:^ *\w+ = .*\n)+)", "".join(p.read_text() for p in PAGES), re.MULTILINE
    ):
        named |= {("nova.conf example", line.split()[0]) for line in block.splitlines()}
    assert len(named) > 10
    assert sorted(pair for pair in named if pair[1] not in known) == []


def test_every_option_has_a_help() -> None:
    pytest.importorskip("oslo_config", reason="the options need oslo.config")
    from nova_lxd.virt import conf

    assert [option.name for option in conf.ALL_OPTS if not option.help] == []


def test_sample_file_has_every_option_and_no_other() -> None:
    pytest.importorskip("oslo_config", reason="the options need oslo.config")
    from nova_lxd.virt import conf

    sample = (REPOSITORY / "etc/nova/nova-lxd.conf.sample").read_text(encoding="utf-8")
    assert set(re.findall(r"^#?(\w+) = ", sample, re.MULTILINE)) == {
        option.name for option in conf.ALL_OPTS
    }


def test_every_extra_spec_is_documented_and_no_other() -> None:
    page = (DOCS / "reference/flavors.rst").read_text(encoding="utf-8")
    flags = constant("nova_lxd/virt/extra_specs.py", "FLAGS")
    assert isinstance(flags, ast.Dict)
    known = {str(ast.literal_eval(key)) for key in flags.keys if key} | {"processes"}
    assert set(re.findall(r"``lxd:(\w+)``", page)) == known


def test_quota_specs_that_are_documented_are_read() -> None:
    page = (DOCS / "reference/flavors.rst").read_text(encoding="utf-8")
    source = (REPOSITORY / "nova_lxd/virt/guest.py").read_text(encoding="utf-8")
    disk = {
        f"quota:disk_{kind}_{unit}_sec"
        for kind in ("read", "write", "total")
        for unit in ("bytes", "iops")
    }
    shaping = (REPOSITORY / "nova_lxd/virt/shaping.py").read_text(encoding="utf-8")
    ports = {
        f"quota:vif_{direction}_{kind}"
        for direction in re.findall(r'_rate\(specs, "(\w+)"\)', shaping)
        for kind in re.findall(r'f"quota:vif_\{direction\}_(\w+)"', shaping)
    }
    assert len(ports) == 6
    read = set(re.findall(r'"(quota:cpu_\w+)"', source)) | disk | ports
    assert 'f"quota:disk_{ours}_bytes_sec"' in source and 'f"quota:disk_{ours}_iops_sec"' in source
    assert set(re.findall(r"``(quota:\w+)``", page)) == read


def test_documented_quickstart_calls_are_understood() -> None:
    calls = list(commands("./quickstart"))
    assert len(calls) > 8
    for page, words in calls:
        try:
            quickstart_parser().parse_args(words)
        except SystemExit as error:
            assert error.code == 0, f"{page}: ./quickstart {' '.join(words)}"


def test_documented_test_parts_exist() -> None:
    known = {part.name for part in PARTS} | {"--full", "--list"}
    calls = list(commands("./runtests"))
    assert len(calls) > 3
    assert [(page, w) for page, words in calls for w in words if w not in known] == []


def test_documented_daemon_calls_are_understood() -> None:
    calls = [call for call in commands("nova-lxd") if call[0] != "README.md"]  # its title
    assert len(calls) > 5
    for page, words in calls:
        try:
            daemon_parser().parse_args(words)
        except SystemExit as error:
            assert error.code == 0, f"{page}: nova-lxd {' '.join(words)}"


def test_documented_image_builds_are_understood() -> None:
    sys.path.insert(0, str(REPOSITORY / "tools/images"))
    try:
        from imagelib import command
    finally:
        sys.path.pop(0)
    calls = list(commands("tools/images/build"))
    assert calls
    for page, words in calls:
        try:
            command._parser().parse_args(words)
        except SystemExit as error:
            assert error.code == 0, f"{page}: tools/images/build {' '.join(words)}"


def test_support_matrix_has_every_row_of_nova() -> None:
    assert len(support_matrix().sections()) == 59


@pytest.mark.parametrize("row", support_matrix().sections())
def test_support_matrix_says_what_the_driver_has(row: str) -> None:
    section = support_matrix()[row]
    assert section["kvm"] in STATUSES and section["lxd"] in STATUSES
    if section["lxd"] == "partial":
        assert section.get("note"), "partial needs a note that says how far"
    have = driver_methods() | {f"capability:{name}" for name in driver_capabilities()}
    wanted = set(section.get("driver", "").split())
    if section["lxd"] == "missing":
        assert wanted & have == set(), "the driver has it: say so"
    else:
        assert wanted and wanted - have == set(), "the driver does not have it"
