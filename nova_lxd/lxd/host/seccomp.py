# SPDX-License-Identifier: Apache-2.0
"""seccomp policies of containers, in liblxc's language (seccomp version 2)."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest

# Calls that act on the host's kernel as a whole; they answer "not implemented".
_DENIED_BY_DEFAULT = (
    "kexec_load",
    "open_by_handle_at",
    "init_module",
    "finit_module",
    "delete_module",
)
# What LXD lists for ``deny_compat``.  libseccomp resolves none of these names today, so liblxc
# skips them, and it offers no way to say "x32 only".
_COMPAT = (
    "compat_sys_rt_sigaction stub_x32_rt_sigreturn compat_sys_ioctl compat_sys_readv "
    "compat_sys_writev compat_sys_recvfrom compat_sys_sendmsg compat_sys_recvmsg stub_x32_execve "
    "compat_sys_ptrace compat_sys_rt_sigpending compat_sys_rt_sigtimedwait "
    "compat_sys_rt_sigqueueinfo compat_sys_sigaltstack compat_sys_timer_create "
    "compat_sys_mq_notify compat_sys_kexec_load compat_sys_waitid compat_sys_set_robust_list "
    "compat_sys_get_robust_list compat_sys_vmsplice compat_sys_move_pages compat_sys_preadv64 "
    "compat_sys_pwritev64 compat_sys_rt_tgsigqueueinfo compat_sys_recvmmsg compat_sys_sendmmsg "
    "compat_sys_process_vm_readv compat_sys_process_vm_writev compat_sys_setsockopt "
    "compat_sys_getsockopt compat_sys_io_setup compat_sys_io_submit stub_x32_execveat"
)
_ENOSYS = 38
_RULE = re.compile(r"(\[[a-z0-9_]+\]|[a-z0-9_]+( [a-z0-9_ \[\],|]+)?)", re.IGNORECASE)


def supported() -> bool:
    """Can this kernel filter system calls?"""
    return "\nSeccomp:" in Path("/proc/self/status").read_text()


def validate_list(text: str) -> None:
    """Check a value of ``security.syscalls.allow`` or ``security.syscalls.deny``.

    :raises BadRequest: a line is no system call, with an optional action.
    """
    for line in text.splitlines():
        if line.strip() and not _RULE.fullmatch(line.strip()):
            raise BadRequest(f"Reading the list of system calls failed: '{line}' is not a rule")


def policy(
    *,
    deny_default: bool = True,
    deny_compat: bool = False,
    deny: str = "",
    allow: str = "",
    raw: str = "",
) -> str:
    """The policy for a container's ``security.syscalls.*`` keys; "" when it needs none.

    :param deny: further calls to refuse, a line each.
    :param allow: the only calls to allow, a line each; the other lists do not count then.
    :param raw: a whole policy (``raw.seccomp``) instead of all else.
    """
    if raw:
        return raw
    if allow.strip():
        return "2\nallowlist\n[all]\n" + allow.strip() + "\n"
    if not deny_default and not deny_compat and not deny.strip():
        return ""
    lines = ["2", "denylist"]
    if deny_default:
        lines.append("reject_force_umount")
    lines.append("[all]")
    if deny_default:
        lines += [f"{name} errno {_ENOSYS}" for name in _DENIED_BY_DEFAULT]
    lines += [line.strip() for line in deny.splitlines() if line.strip()]
    if deny_compat and platform.machine() == "x86_64":
        lines.append("[x86_64]")
        lines += [f"{name} errno {_ENOSYS}" for name in _COMPAT.split()]
    return "\n".join(lines) + "\n"


def config_items(path: Path, text: str) -> list[tuple[str, str]]:
    """Write a policy and give the configuration that uses it; nothing when there is none."""
    if not text or not supported():
        path.unlink(missing_ok=True)
        return []
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as stream:
        stream.write(text)
    return [("lxc.seccomp.profile", str(path)), ("lxc.seccomp.allow_nesting", "1")]
