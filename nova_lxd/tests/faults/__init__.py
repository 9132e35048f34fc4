# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose: random life cycles while parts are killed, and an auditor of what is left.

    python3 -m nova_lxd.tests.faults --rounds 10 [--seed 1] [--faults daemon,zygote]
"""
