# SPDX-License-Identifier: Apache-2.0
"""Make the driver importable under the one name Nova looks for: ``nova.virt.lxd``.

Nova loads ``nova.virt.<compute_driver>`` and nothing else, and ``nova`` and ``nova.virt`` are
ordinary packages, so no second distribution can add a module to them without writing into
Nova's own directory. ``nova_lxd.pth`` runs :func:`install` at interpreter start instead; it
appends a finder that answers this single name, wherever Nova itself is installed (wheel,
editable tree, distribution package). The finder comes last, so a real ``nova/virt/lxd`` wins.

This module runs at every start of the interpreter: it imports importlib only, and neither
``nova`` nor ``nova_lxd``.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys

NAME = "nova.virt.lxd"
TARGET = "nova_lxd.virt.driver"


class DriverLoader(importlib.abc.Loader):
    """Fill ``nova.virt.lxd`` with the driver class; loads the driver only at this moment."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        driver = importlib.import_module(TARGET)
        module.LXDDriver = driver.LXDDriver
        module.__doc__ = driver.__doc__


class DriverFinder(importlib.abc.MetaPathFinder):
    """Answer ``nova.virt.lxd``, provided that ``nova_lxd`` can be found; nothing else."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == NAME and importlib.util.find_spec("nova_lxd") is not None:
            return importlib.machinery.ModuleSpec(fullname, DriverLoader(), origin=TARGET)
        return None


def install():
    """Append the finder to ``sys.meta_path`` once, however often this is called."""
    if not any(isinstance(finder, DriverFinder) for finder in sys.meta_path):
        sys.meta_path.append(DriverFinder())
