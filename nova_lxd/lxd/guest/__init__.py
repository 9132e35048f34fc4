# SPDX-License-Identifier: Apache-2.0
"""The HTTP edge towards guests: the socket that containers see as /dev/lxd/sock."""
