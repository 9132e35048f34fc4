# SPDX-License-Identifier: Apache-2.0
"""The entry point of tempest.test_plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tempest.test_discover import plugins

from nova_lxd.tests.tempest import config

HERE = Path(__file__).resolve().parent


class NovaLXDPlugin(plugins.TempestPlugin):
    """Tells tempest where the tests are and which options they read."""

    def load_tests(self) -> tuple[str, str]:
        """Return the directory of the tests, and the one that their import path starts at."""
        return str(HERE), str(HERE.parents[2])

    def register_opts(self, conf: Any) -> None:
        """Make section [lxd] known to tempest's configuration."""
        conf.register_group(config.GROUP)
        conf.register_opts(config.OPTIONS, group=config.GROUP)

    def get_opt_lists(self) -> list[tuple[str, list[Any]]]:
        """Return the options, for tempest's sample configuration."""
        return [(config.GROUP.name, list(config.OPTIONS))]
