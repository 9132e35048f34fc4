# SPDX-License-Identifier: Apache-2.0
"""Fuzzing: the API of a live daemon from its own OpenAPI document, and readers by coverage.

    python3 -m nova_lxd.tests.fuzz [--seconds 90] [--each 20] [--seed 1]
    python3 -m nova_lxd.tests.fuzz.guided template --seconds 600
"""
