# SPDX-License-Identifier: Apache-2.0
"""Instances on their way between servers, in the words of LXD's migration protocol."""
