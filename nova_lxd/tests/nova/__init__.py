# SPDX-License-Identifier: Apache-2.0
"""Nova's own functional tests, unchanged, on this driver with real containers.

``python -m nova_lxd.tests.nova [pattern]`` runs them; see :mod:`nova_lxd.tests.nova.__main__`.
"""
