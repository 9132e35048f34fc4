# SPDX-License-Identifier: Apache-2.0
"""Measurements of LXD-compatible daemons, side by side on one machine."""
