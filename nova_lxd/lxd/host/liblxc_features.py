# SPDX-License-Identifier: Apache-2.0
"""What the kernel and liblxc of this host can do, in LXD's words (``kernel_features`` …)."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
from functools import cache
from pathlib import Path

# API extensions of liblxc (lxc_has_api_extension) that LXD 5.0 shows.
_LXC_EXTENSIONS = (
    "cgroup2",
    "core_scheduling",
    "devpts_fd",
    "idmapped_mounts_v2",
    "mount_injection_file",
    "network_gateway_device_route",
    "network_ipvlan",
    "network_l2proxy",
    "network_phys_macvlan_mtu",
    "network_veth_router",
    "pidfd",
    "seccomp_allow_deny_syntax",
    "seccomp_notify",
    "seccomp_proxy_send_notify_fd",
)


@cache
def _library() -> ctypes.CDLL | None:
    """liblxc, for its two constant functions only: they touch no container and cannot block."""
    name = ctypes.util.find_library("lxc")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    library.lxc_get_version.restype = ctypes.c_char_p
    library.lxc_has_api_extension.argtypes = [ctypes.c_char_p]
    library.lxc_has_api_extension.restype = ctypes.c_bool
    return library


@cache
def version() -> str:
    """liblxc's version; empty when it is not installed."""
    library = _library()
    return library.lxc_get_version().decode() if library else ""


@cache
def lxc() -> dict[str, str]:
    """``lxc_features``: liblxc's API extensions by name."""
    library = _library()
    return {
        name: str(bool(library and library.lxc_has_api_extension(name.encode()))).lower()
        for name in _LXC_EXTENSIONS
    }


def _kernel_at_least(major: int, minor: int) -> bool:
    numbers = platform.release().split("-")[0].split(".")
    return (int(numbers[0]), int(numbers[1])) >= (major, minor)


@cache
def kernel() -> dict[str, str]:
    """``kernel_features``: what this kernel offers to containers."""
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    notify = actions.exists() and "user_notif" in actions.read_text().split()
    features = {
        "idmapped_mounts": _kernel_at_least(5, 12),
        "netnsid_getifaddrs": _kernel_at_least(4, 20),
        "seccomp_listener": notify,
        "seccomp_listener_continue": notify and _kernel_at_least(5, 5),
        "shiftfs": False,
        "uevent_injection": _kernel_at_least(4, 18),
        "unpriv_fscaps": _kernel_at_least(4, 14) and os.path.exists("/proc/self/ns/user"),
    }
    return {name: str(value).lower() for name, value in features.items()}
