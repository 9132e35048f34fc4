# SPDX-License-Identifier: Apache-2.0
"""The HTTP edge: one module per resource of the REST API, each declaring its routes."""

from __future__ import annotations

import importlib
import pkgutil


def load_resources() -> None:
    """Import every resource module, so that the route table is complete."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
