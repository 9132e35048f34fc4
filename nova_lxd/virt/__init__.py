# SPDX-License-Identifier: Apache-2.0
"""The Nova driver for LXD: imports Nova and pylxd, and nothing of the bundled daemon."""
