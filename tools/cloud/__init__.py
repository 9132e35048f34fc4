# SPDX-License-Identifier: Apache-2.0
"""A complete single-node OpenStack with the LXD driver, brought up by one command.

Only the standard library is used here: the package runs before any virtual environment exists.
"""
