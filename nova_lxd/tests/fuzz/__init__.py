# SPDX-License-Identifier: Apache-2.0
"""Fuzzing of a live daemon from its own OpenAPI document.

    python3 -m nova_lxd.tests.fuzz [--seconds 100] [--seed 1]
"""
