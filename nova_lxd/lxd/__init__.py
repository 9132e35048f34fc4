# SPDX-License-Identifier: Apache-2.0
"""The bundled LXD-compatible daemon: the LXD REST API over liblxc, with nothing of Nova in it."""
