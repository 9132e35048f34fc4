# SPDX-License-Identifier: Apache-2.0
"""``nova.virt.lxd`` is there however Nova and this package are installed, and gone afterwards.

Fresh virtual environments without a network: the builders come from the running environment. A
stand-in for Nova keeps it quick; the last test takes the real one.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import textwrap
import zipfile

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[4]
BUILDERS = ("setuptools", "pbr")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (SOURCE / "setup.cfg").exists(), reason="needs the source tree"),
]

LOOK = textwrap.dedent(
    """
    import importlib.util, sys
    spec = importlib.util.find_spec("nova.virt.lxd")
    print(spec and spec.origin, "nova_lxd" in sys.modules)
    """
)


def run(*command: object, **environment: str) -> str:
    """Run a program; return its output, and show all of it when it fails."""
    # outside of any checkout: the working directory is on sys.path of "python -c"
    done = subprocess.run(
        list(map(str, command)),
        cwd="/",
        env={
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "PIP_CONFIG_FILE": "/dev/null",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with the build tools alone, for PYTHONPATH."""
    directory = tmp_path_factory.mktemp("builders")
    for name in BUILDERS:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
        tops = {pathlib.PurePath(file).parts[0] for file in distribution.files or ()}
        for top in tops - {"..", "__pycache__", "distutils-precedence.pth"}:
            (directory / top).symlink_to(distribution.locate_file(top))
    return str(directory)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The source as a release has it: what git tracks, without git."""
    target = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=SOURCE, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (SOURCE / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((SOURCE / name).read_bytes())
    return target


@pytest.fixture(scope="module")
def wheel(
    tree: pathlib.Path, builders: str, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """This package's wheel."""
    target = tmp_path_factory.mktemp("wheel")
    pip_wheel(tree, target, builders)
    return next(target.glob("nova_lxd-*.whl"))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A source tree of a package named nova, made of ordinary packages as the real one."""
    top = tmp_path_factory.mktemp("nova")
    (top / "nova/virt").mkdir(parents=True)
    (top / "nova/__init__.py").write_text("")
    (top / "nova/virt/__init__.py").write_text("")
    (top / "setup.py").write_text(
        "from setuptools import setup\n"
        "setup(name='nova', version='34.0.0', packages=['nova', 'nova.virt'])\n"
    )
    return top


def pip_wheel(source: pathlib.Path, target: pathlib.Path, builders: str) -> None:
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "-w", target, source, PYTHONPATH=builders, PBR_VERSION="20.0.0",
    )  # fmt: skip


class Environment:
    """A fresh virtual environment."""

    def __init__(self, directory: pathlib.Path, builders: str) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", directory)
        self.python = directory / "bin/python"
        self.site = next(directory.glob("lib/python3*/site-packages"))
        self._builders = builders

    def pip(self, *arguments: object) -> None:
        """Run pip on the environment, building with the running environment's tools."""
        run(
            sys.executable, "-m", "pip", "--python", self.python, *arguments,
            PYTHONPATH=self._builders, PBR_VERSION="20.0.0",
        )  # fmt: skip

    def install(self, *what: object) -> None:
        self.pip("install", "-q", "--no-deps", "--no-index", "--no-build-isolation", *what)

    def look(self) -> str:
        return run(self.python, "-c", LOOK)


@pytest.fixture
def environment(tmp_path: pathlib.Path, builders: str) -> Environment:
    return Environment(tmp_path / "venv", builders)


def test_wheel_has_everything(wheel: pathlib.Path, tree: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        entry_points = archive.read(entry).decode()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        requirements = archive.read(metadata).decode()
    assert {"nova_lxd.pth", "nova_lxd_import_hook.py"} <= set(names)
    tracked = (path for path in (tree / "nova_lxd").rglob("*") if path.is_file())
    assert {str(path.relative_to(tree)) for path in tracked} <= set(names)
    for line in ("nova-lxd = nova_lxd.lxd.cli:main", "nova_lxd = nova_lxd.virt.conf:list_opts",
                 "lxd = nova_lxd.virt.extra_specs"):  # fmt: skip
        assert line in entry_points
    plain = [line for line in requirements.splitlines() if line.startswith("Requires-Dist: nova")]
    assert all("extra ==" in line for line in plain), "pip must never fetch a second Nova"


@pytest.mark.parametrize("nova_editable", [False, True], ids=["nova-wheel", "nova-editable"])
@pytest.mark.parametrize("how", ["regular", "editable", "strict"])
def test_found_and_gone(
    environment: Environment,
    stand_in: pathlib.Path,
    wheel: pathlib.Path,
    tree: pathlib.Path,
    nova_editable: bool,
    how: str,
) -> None:
    environment.install(*(["-e"] if nova_editable else []), stand_in)
    before = sorted(path.name for path in environment.site.iterdir())
    assert environment.look() == "None False"
    if how == "regular":
        environment.install(wheel)
    elif how == "editable":
        environment.install("-e", tree)
    else:
        environment.install("--config-settings", "editable_mode=strict", "-e", tree)
    # found, and nothing of the package loaded by looking
    assert environment.look() == "nova_lxd.virt.driver False"
    environment.pip("uninstall", "-q", "-y", "nova-lxd")
    assert environment.look() == "None False"
    left = sorted(path.name for path in environment.site.iterdir() if path.name != "__pycache__")
    assert left == [name for name in before if name != "__pycache__"]


def test_driver_in_nova_itself_wins(
    environment: Environment, stand_in: pathlib.Path, wheel: pathlib.Path
) -> None:
    environment.install(stand_in)
    environment.install(wheel)
    (environment.site / "nova/virt/lxd.py").write_text("")
    assert environment.look().startswith(str(environment.site / "nova/virt/lxd.py"))


def test_real_nova_loads_the_driver(environment: Environment, wheel: pathlib.Path) -> None:
    nova = pytest.importorskip("nova")
    here = pathlib.Path(nova.__file__).parents[1]
    (environment.site / "zz_running.pth").write_text(f"{here}\n")
    environment.install(wheel)
    program = (
        "from nova import monkey_patch; monkey_patch.patch(backend='threading')\n"
        "import sys, nova.virt.lxd\n"
        "print(nova.virt.lxd.LXDDriver.__module__, 'eventlet' in sys.modules)\n"
    )
    assert run(environment.python, "-c", program) == "nova_lxd.virt.driver False"
