# SPDX-License-Identifier: Apache-2.0
"""The newcomer's path: the quick start on a machine that has nothing but git and Python."""
