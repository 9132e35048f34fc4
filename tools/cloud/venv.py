# SPDX-License-Identifier: Apache-2.0
"""The Python environment with all of OpenStack, from the project's constraints file."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from cloud import packages
from cloud.context import Cloud
from cloud.layout import REPOSITORY
from cloud.run import run
from cloud.steps import Step, fingerprint

CONSTRAINTS = REPOSITORY / "constraints.txt"

# pyroute2 is named because os-vif 5.2 needs it and does not say so.
CORE = (
    "keystone", "glance", "openstack-placement", "nova", "neutron", "python-openstackclient",
    "pymysql", "python-memcached", "pyroute2", "pyuwsgi",
)
OPTIONAL = {"cinder": ("cinder",), "horizon": ("horizon",)}


def steps(cloud: Cloud) -> list[Step]:
    """Create the environment; with --venv DIR, use that one as it is."""
    if cloud.settings.venv:
        return [Step("python/openstack", lambda: check(cloud)),
                Step("python/driver", lambda: False, needs=("python/openstack",))]
    return [
        Step("python/environment", lambda: create(cloud)),
        Step("python/openstack", lambda: install_openstack(cloud), needs=("python/environment",),
             stamp=fingerprint(CONSTRAINTS, " ".join(requirements(cloud)))),
        Step("python/driver", lambda: install_checkout(cloud), needs=("python/openstack",),
             stamp=fingerprint(str(REPOSITORY), REPOSITORY / "setup.cfg",
                               REPOSITORY / "pyproject.toml")),
    ]


def requirements(cloud: Cloud) -> list[str]:
    names = list(CORE)
    for family, extra in OPTIONAL.items():
        if cloud.has(family):
            names += extra
    return names


def create(cloud: Cloud) -> bool:
    """Make the virtual environment, with Debian's python3-venv when it is not there yet."""
    if (cloud.venv / "bin/pip").exists():
        return False
    if importlib.util.find_spec("ensurepip") is None:
        packages.install(cloud, list(packages.EARLY))
    shutil.rmtree(cloud.venv, ignore_errors=True)
    run((sys.executable, "-m", "venv", cloud.venv), log=cloud.log("step-python"))
    return True


def pip_install(cloud: Cloud, *arguments: str | Path) -> None:
    run(
        (cloud.bin("python"), "-m", "pip", "install", "--disable-pip-version-check",
         "--no-input", "-c", CONSTRAINTS, *arguments),
        log=cloud.log("step-python"), timeout=3600,
        remedy="see whether this machine reaches the Python package index, then run "
               "'quickstart up' again: it goes on from here",
    )


def install_openstack(cloud: Cloud) -> None:
    pip_install(cloud, "pip", "wheel", "setuptools", "pbr")
    pip_install(cloud, *requirements(cloud))


def install_checkout(cloud: Cloud) -> None:
    """Install this checkout, editable, so that a change of the source is a restart away."""
    pip_install(cloud, "--no-build-isolation", "-e", REPOSITORY)


def check(cloud: Cloud) -> bool:
    """See that a foreign environment has what is needed; changes nothing in it."""
    modules = ["keystone", "glance", "placement", "nova", "neutron", "pymysql", "pyroute2"]
    if cloud.settings.driver == "lxd":
        modules.append("nova.virt.lxd")
    run((cloud.bin("python"), "-W", "ignore", "-c", "import " + ", ".join(modules)),
        log=cloud.log("step-python"),
        remedy=f"install this checkout there ({cloud.bin('pip')} install -e {REPOSITORY}), or "
               "leave out --venv: quickstart then makes its own environment")
    return False
