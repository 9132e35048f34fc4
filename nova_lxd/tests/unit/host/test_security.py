# SPDX-License-Identifier: Apache-2.0
"""Texts of seccomp policies and AppArmor profiles."""

from __future__ import annotations

import platform
import re
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
    assert 'profile "p1"' in text and "  deny /x r,\n" in text
    assert "deny mount fstype=proc" not in text
    strict = apparmor.profile_text("p1", privileged=True, nesting=False)
    assert "  deny mount fstype=proc -> /[^pr]*{,/**},\n" in strict
    nested = apparmor.profile_text("p1", privileged=False, nesting=True, namespace="ns1")
    assert "change_profile -> :ns1:*," in nested
    assert "change_profile -> **" not in nested


def refused(text: str, path: str) -> bool:
    """Does a rule of a profile deny writing to a path?  (AppArmor's globs as expressions.)"""
    denials = re.findall(r"^  deny (\S+) (?:rw|w)klx,$", text, re.M)
    for glob in denials:
        words = re.split(
            r"(\{,/\*\*\}|\{,\*\*\}|\{[\w,]+\}|\*\*|\*|\?|\[.*?\])",
            glob.replace("@{PROC}", "/proc"),
        )
        made = ""
        for word in words:
            if word == "{,/**}":
                made += "(/.*)?"
            elif word == "{,**}":
                made += "(.*)?"
            elif word.startswith("{"):
                made += f"({word[1:-1].replace(',', '|')})"
            else:
                made += {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(
                    word, word if word.startswith("[") else re.escape(word)
                )
        if re.fullmatch(made, path):
            return True
    return False


@pytest.mark.parametrize("privileged", [True, False])
def test_apparmor_refuses_settings_of_the_hosts_kernel(privileged: bool) -> None:
    text = apparmor.profile_text("p1", privileged=privileged, nesting=False)
    for path in (
        "/proc/sysrq-trigger",
        "/proc/sys/abi/vsyscall32",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostnames",
        "/proc/sys/kernel/hotplug",
        "/proc/sys/kernel/yama/ptrace_scope",
        "/proc/sys/kernels",
        "/proc/sys/nets/x",
        "/proc/sys/vm/swappiness",
        "/sys/block/sda/queue/scheduler",
        "/sys/bus/pci/rescan",
        "/sys/class/block/sda",
        "/sys/devices/system/cpu/cpu1/online",
        "/sys/devices/virtual/workqueue/cpumask",
        "/sys/fs/ext4/sda/trigger_fs_error",
        "/sys/fs/bpf2",
        "/sys/kernel/mm/ksm/run",
        "/sys/kernel/security/apparmor/.load",
        "/sys/module/kvm/parameters/halt",
        "/sys/power/state",
    ):
        assert refused(text, path), path
    for path in (
        "/proc/1/oom_score_adj",
        "/proc/sys/kernel/domainname",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/msgmax",
        "/proc/sys/kernel/sem",
        "/proc/sys/kernel/shm_rmid_forced",
        "/proc/sys/net/ipv4/conf/all/forwarding",
        "/sys/class/net/eth0/mtu",
        "/sys/devices/virtual/net/eth0/queues/rx-0/rps_cpus",
        "/sys/fs/bpf/map",
        "/sys/fs/cgroup/x/cgroup.procs",
    ):
        assert not refused(text, path), path
    loader = apparmor.profile_text("p1", privileged=privileged, nesting=False, namespace="ns1")
    assert not refused(loader, "/sys/kernel/security/apparmor/.load")
    assert refused(loader, "/sys/kernel/security/lockdown")
    assert refused(loader, "/sys/kernel/mm/ksm/run")


def test_apparmor_is_left_to_who_is_free_to_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apparmor, "_FEATURES", tmp_path)
    monkeypatch.setattr(apparmor, "_PARSER", "true")
    for name, text in (("_ENABLED", "Y\n"), ("_CURRENT", "unconfined\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(apparmor, name, tmp_path / name)
    assert apparmor.available.__wrapped__()
    (tmp_path / "_CURRENT").write_text("docker-default (enforce)\n")
    assert not apparmor.available.__wrapped__()
    (tmp_path / "_CURRENT").unlink()
    assert not apparmor.available.__wrapped__()


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
