# SPDX-License-Identifier: Apache-2.0
"""The first boot: installing the service, then everything with it."""
