# SPDX-License-Identifier: Apache-2.0
"""Texts of seccomp policies and AppArmor profiles."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import apparmor, seccomp


def test_default_policy() -> None:
    lines = seccomp.policy().splitlines()
    assert lines[:4] == ["2", "denylist", "reject_force_umount", "[all]"]
    assert "kexec_load errno 38" in lines


def test_policy_of_each_key(tmp_path: Path) -> None:
    assert seccomp.policy(deny_default=False) == ""
    assert seccomp.policy(deny_default=False, deny="uname\n\nreboot errno 1").splitlines() == [
        "2", "denylist", "[all]", "uname", "reboot errno 1",
    ]  # fmt: skip
    assert (
        seccomp.policy(allow="read\nwrite", deny="uname") == "2\nallowlist\n[all]\nread\nwrite\n"
    )
    assert seccomp.policy(raw="mine", allow="read") == "mine"
    compat = seccomp.policy(deny_compat=True)
    assert ("[x86_64]" in compat) == (platform.machine() == "x86_64")


def test_no_policy_removes_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "seccomp" / "c1"
    assert seccomp.config_items(path, "") == []
    assert seccomp.config_items(path, seccomp.policy())[0] == ("lxc.seccomp.profile", str(path))
    assert path.read_text() == seccomp.policy()
    assert seccomp.config_items(path, "") == []
    assert not path.exists()


def test_system_call_lists_are_checked() -> None:
    seccomp.validate_list(
        "read\nmknod errno 1\nmknodat notify [1,8192,SCMP_CMP_MASKED_EQ,61440]\n"
    )
    with pytest.raises(BadRequest):
        seccomp.validate_list("read; write")


def test_apparmor_profile() -> None:
    text = apparmor.profile_text("p1", privileged=False, nesting=False, raw="deny /x r,")
    assert text.count("{") == text.count("}")
    assert 'profile "p1"' in text and "  mount,\n" in text and "  deny /x r,\n" in text
    assert "apparmor/** rwklx" in text
    strict = apparmor.profile_text("p1", privileged=True, nesting=False)
    assert "  mount,\n" not in strict and "deny mount fstype=debugfs" in strict
    nested = apparmor.profile_text("p1", privileged=False, nesting=True, namespace="ns1")
    assert "change_profile -> :ns1:*," in nested and "apparmor/** rwklx" not in nested


def test_apparmor_is_silent_where_the_kernel_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apparmor, "available", lambda: False)
    path = tmp_path / "profile"
    assert apparmor.load(path, "x") is False
    assert not path.exists()
    apparmor.unload(path)
    assert apparmor.config_items("p1") == []


def test_apparmor_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "available", lambda: True)
    assert apparmor.config_items("p1") == [("lxc.apparmor.profile", "p1")]
    assert apparmor.config_items("p1", "ns") == [("lxc.apparmor.profile", "p1//&:ns:")]
    assert len(apparmor.profile_name("0" * 8, "x" * 300)) < 200
