# SPDX-License-Identifier: Apache-2.0
"""OpenStack compute for system containers: a Nova driver and an LXD-compatible daemon."""
