# SPDX-License-Identifier: Apache-2.0
"""Tests against a running cloud, from the outside: openstacksdk, ssh, and a look at the host."""
