# SPDX-License-Identifier: Apache-2.0
"""The layouts of Debian's own Python: Nova below /usr/lib/python3/dist-packages.

Each test lays directories of its own over the system's, in a mount namespace that is gone with it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import textwrap

import pytest

from nova_lxd.tests.functional.packaging.test_install import (
    LOOK,
    SOURCE,
    builders,
    pip_wheel,
    run,
    stand_in,
    tree,
    wheel,
)

__all__ = ["builders", "pip_wheel", "stand_in", "tree", "wheel"]  # fixtures

PYTHON = "/usr/bin/python3"
DIST = "/usr/lib/python3/dist-packages"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0 or not pathlib.Path(DIST).is_dir() or not shutil.which("unshare"),
        reason="needs root on a Debian",
    ),
    pytest.mark.skipif(not (SOURCE / "setup.cfg").exists(), reason="needs the source tree"),
]

# What may be written is laid over: Debian's packages, and what pip adds beside them.
LAYERS = """
mount -t tmpfs tmpfs "$WORK"
for place in /usr/lib/python3/dist-packages /usr/local; do
    layer="$WORK$place"
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay overlay -o "lowerdir=$place,upperdir=$layer/upper,workdir=$layer/work" $place
done
cp -r "$NOVA" /usr/lib/python3/dist-packages/nova
look() { "$1" -c "$LOOK"; }
"""
INSTALL = '-m pip -q --python "$TARGET" install --no-deps --no-index'


@pytest.fixture
def steps(tmp_path: pathlib.Path, wheel: pathlib.Path, stand_in: pathlib.Path) -> object:
    """Return a function that runs shell steps on such a system; its answer is what they print."""

    def play(script: str) -> list[str]:
        return run(
            "unshare", "--mount", "--propagation", "private",
            "sh", "-ec", LAYERS + textwrap.dedent(script),
            WORK=str(tmp_path), NOVA=str(stand_in / "nova"), WHEEL=str(wheel), LOOK=LOOK,
            BUILD=sys.executable, TARGET=PYTHON, PIP_BREAK_SYSTEM_PACKAGES="1",
            PIP_ROOT_USER_ACTION="ignore", PIP_DISABLE_PIP_VERSION_CHECK="1",
        ).splitlines()  # fmt: skip

    return play


FOUND, NOT_FOUND = "nova_lxd.virt.driver False", "None False"


def test_pip_beside_debians_nova(steps: object) -> None:
    """pip of the system's Python puts the driver below /usr/local."""
    seen = steps(  # type: ignore[operator]
        f"""
        look {PYTHON}
        "$BUILD" {INSTALL} "$WHEEL"
        look {PYTHON}
        ls -d /usr/local/lib/python3*/dist-packages/nova_lxd.pth | wc -l
        "$BUILD" -m pip -q --python "$TARGET" uninstall -q -y nova-lxd
        look {PYTHON}
        """
    )
    assert seen == [NOT_FOUND, FOUND, "1", NOT_FOUND]


def test_files_of_a_debian_package(steps: object) -> None:
    """A package's files lie beside Nova's own; dist-packages reads .pth files."""
    seen = steps(  # type: ignore[operator]
        f"""
        "$BUILD" {INSTALL} --target {DIST} "$WHEEL"
        ls {DIST}/nova_lxd.pth
        look {PYTHON}
        """
    )
    assert seen == [f"{DIST}/nova_lxd.pth", FOUND]


def test_virtual_environment_on_debians_nova(steps: object) -> None:
    """The driver in an environment that sees the system's packages; outside it is not there."""
    seen = steps(  # type: ignore[operator]
        f"""
        {PYTHON} -m venv --without-pip --system-site-packages "$WORK/venv"
        TARGET="$WORK/venv/bin/python"
        look "$TARGET"
        "$BUILD" {INSTALL} "$WHEEL"
        look "$TARGET"
        look {PYTHON}
        """
    )
    assert seen == [NOT_FOUND, FOUND, NOT_FOUND]


def test_real_nova_in_dist_packages_loads_the_driver(steps: object) -> None:
    """Nova's own loader, on the system's interpreter, where it is of the release Nova runs on."""
    nova = pytest.importorskip("nova")
    if run(PYTHON, "-c", "import sys; print(sys.version_info[:2])") != str(sys.version_info[:2]):
        pytest.skip("the running environment is of another Python than the system's")
    here = pathlib.Path(nova.__file__).parents[1]
    program = textwrap.dedent(
        """
        from nova import monkey_patch; monkey_patch.patch(backend='threading')
        import nova.virt.lxd
        from nova.virt import driver
        from nova.compute import manager
        import nova.conf
        nova.conf.CONF([], project='nova', default_config_files=[])
        print(nova.__file__, type(driver.load_compute_driver(None, 'lxd.LXDDriver')).__module__)
        """
    )
    seen = steps(  # type: ignore[operator]
        f"""
        mount -t tmpfs tmpfs {DIST}  # Debian's own packages are too old for it
        cp -r {here}/nova {DIST}/nova
        cp -r {here}/nova-*.dist-info {DIST}/
        echo {here} > {DIST}/zz_its_requirements.pth
        "$BUILD" {INSTALL} --target {DIST} "$WHEEL"
        {PYTHON} -c "{program.strip()}"
        """
    )
    assert seen == [f"{DIST}/nova/__init__.py nova_lxd.virt.driver"]
