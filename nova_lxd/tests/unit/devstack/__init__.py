# SPDX-License-Identifier: Apache-2.0
"""The devstack plugin against a stand-in for devstack."""
