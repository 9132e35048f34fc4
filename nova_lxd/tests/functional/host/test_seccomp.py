# SPDX-License-Identifier: Apache-2.0
"""seccomp policies, loaded by the kernel and felt inside."""

from __future__ import annotations

import platform

import pytest

from nova_lxd.lxd.host import seccomp
from nova_lxd.lxd.host.liblxc.client import LiblxcError
from nova_lxd.tests.functional.host.conftest import Lab


def start(lab: Lab, policy: str) -> None:
    lab.start("c1", *seccomp.config_items(lab.top / "security" / "c1", policy))


def test_default_policy(lab: Lab) -> None:
    start(lab, seccomp.policy())
    assert "Seccomp:\t2" in lab.exec("c1", "cat", "/proc/1/status")[1]
    assert "Seccomp:\t2" in lab.exec("c1", "cat", "/proc/self/status")[1], "programs too"


def test_without_a_policy(lab: Lab) -> None:
    start(lab, seccomp.policy(deny_default=False))
    assert "Seccomp:\t0" in lab.exec("c1", "cat", "/proc/1/status")[1]


def test_denied_call(lab: Lab) -> None:
    start(lab, seccomp.policy(deny="mkdir errno 13\nmkdirat errno 13"))
    code, out = lab.exec("c1", "busybox", "mkdir", "/root/d")
    assert code != 0 and "Permission denied" in out


def test_denied_call_with_the_default_policy_alone_works(lab: Lab) -> None:
    start(lab, seccomp.policy())
    assert lab.exec("c1", "busybox", "mkdir", "/root/d")[0] == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 belongs to x86-64")
def test_compat_calls_denied(lab: Lab) -> None:
    start(lab, seccomp.policy(deny_compat=True))
    assert lab.exec("c1", "true")[0] == 0


def test_broken_policy_fails_the_start(lab: Lab) -> None:
    with pytest.raises(LiblxcError, match="c1"):
        start(lab, "nonsense\n")
