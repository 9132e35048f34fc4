# SPDX-License-Identifier: Apache-2.0
"""Tests of the quick start's own machinery, without a cloud."""
