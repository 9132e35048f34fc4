# SPDX-License-Identifier: Apache-2.0
"""Glance images as LXD images."""
