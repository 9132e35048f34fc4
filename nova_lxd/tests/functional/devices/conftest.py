# SPDX-License-Identifier: Apache-2.0
from nova_lxd.tests.functional.network.host import guest, netns, paths  # noqa: F401
