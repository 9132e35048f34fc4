# SPDX-License-Identifier: Apache-2.0
"""Containers under AppArmor profiles of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from nova_lxd.lxd.host import apparmor
from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.kernel.conftest import Launch
from nova_lxd.tests.kernel.host import LXD_DIR, PATHS, init_pid, lxc, refused, run

SECURITY = Path("/sys/kernel/security/apparmor")


def profile_of(name: str) -> str:
    """What the daemon calls the profile of an instance."""
    return apparmor.profile_name(PATHS.tag, name)


def confinement(pid: int) -> str:
    """The label of a process."""
    return Path(f"/proc/{pid}/attr/current").read_text(encoding="ascii").strip("\0\n")


def loaded(name: str) -> bool:
    """Does the kernel hold the profile of an instance?"""
    lines = (SECURITY / "profiles").read_text(encoding="ascii").splitlines()
    return f"{profile_of(name)} (enforce)" in lines


def profile_file(name: str) -> Path:
    """Where the daemon keeps the profile of an instance."""
    return LXD_DIR / "security/apparmor" / name


def tried(name: str, command: str) -> str:
    """What a shell in the container says to a command, with its exit code."""
    return lxc("exec", name, "--", "sh", "-c", f"({command}) 2>&1; echo code $?")


def check_denied(name: str, command: str) -> None:
    """A command is refused for want of permission."""
    said = tried(name, command)
    assert "code 0" not in said and "denied" in said, f"{command}: {said}"


def check_works(name: str, command: str) -> None:
    """A command is not refused."""
    said = tried(name, command)
    assert said.endswith("code 0\n"), f"{command}: {said}"


def test_kernel_has_it(service: None) -> None:
    assert (Path("/sys/module/apparmor/parameters/enabled")).read_text() == "Y\n"
    assert apparmor.available()


def test_init_is_confined(launch: Launch) -> None:
    name = launch()
    label = confinement(init_pid(name))
    # Its profile, stacked upon whatever it loads into its own namespace.
    assert label.startswith(f"{profile_of(name)}//&:{profile_of(name)}:"), label
    assert loaded(name)
    # What the container itself sees of it.
    seen = lxc("exec", name, "--", "cat", "/proc/1/attr/current")
    assert "unconfined" in seen or profile_of(name) in seen


def test_exec_is_confined(launch: Launch) -> None:
    name = launch()
    wanted = confinement(init_pid(name))
    lxc("exec", name, "--", "sh", "-c", "sleep 1234 & true")
    pids = run("pgrep", "-f", "^sleep 1234").stdout.split()
    assert [confinement(int(pid)) for pid in pids] == [wanted]


def test_profile_goes_with_the_container(launch: Launch) -> None:
    name = launch()
    assert loaded(name) and profile_file(name).exists()
    namespaces = SECURITY / "policy/namespaces"
    assert [path.name for path in namespaces.iterdir()] == [profile_of(name)]
    lxc("restart", name)
    assert loaded(name)
    lxc("stop", name)
    assert not loaded(name) and not profile_file(name).exists()
    assert not list(namespaces.iterdir())
    lxc("start", name)
    lxc("delete", "-f", name)
    assert not loaded(name) and not profile_file(name).exists()
    assert not list(namespaces.iterdir())


@pytest.mark.parametrize("privileged", ["false", "true"])
def test_settings_of_the_hosts_kernel_cannot_be_changed(launch: Launch, privileged: str) -> None:
    name = launch("-c", f"security.privileged={privileged}")
    if privileged == "true":
        # They are mounted read-only, which root can undo: AppArmor alone keeps it off then.
        check_works(name, "mount -o remount,bind,rw /proc/sys")
        check_works(name, "mount -o remount,rw /sys")
        check_denied(name, "echo 0 > /proc/sys/kernel/panic")
        check_denied(name, "echo 0 > /sys/module/apparmor/parameters/audit")
    for path in (
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/panic",
        "/proc/sys/vm/swappiness",
        "/proc/sys/fs/file-max",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/module/apparmor/parameters/audit",
        "/sys/fs/ext4/ubda/trigger_fs_error",
    ):
        if Path(path).exists():
            said = tried(name, f"echo 0 > {path}")
            assert "code 0" not in said, f"{path} was written: {said}"
    check_works(name, "echo 1 > /proc/sys/net/ipv4/ip_forward")
    check_works(name, "echo 100 > /proc/sys/kernel/msgmni")
    check_works(name, "hostname other && mkdir /sys/fs/cgroup/x")


def test_privileged_container_cannot_go_around_it(launch: Launch) -> None:
    name = launch("-c", "security.privileged=true")
    lxc("exec", name, "--", "mkdir", "/m")
    # The denied files, where no rule would know them.
    for kind in ("proc", "sysfs", "securityfs"):
        check_denied(name, f"mount -t {kind} none /m")
    # The file system is the host's, too.
    check_denied(name, "mount -o remount,ro /")
    # What any system does at its start.
    check_works(name, "mount -t tmpfs tmpfs /m && mkdir /m/a /m/b")
    check_works(name, "mount --bind /m/a /m/b && mount -o remount,bind,ro /m/b")
    check_works(name, "umount /m/b && mount --make-rprivate / && umount /m")
    check_works(name, "mount --rbind / /m && umount -l /m")
    check_works(name, "mount -o remount,bind,ro /")


def test_own_rules(launch: Launch) -> None:
    name = launch("-c", "raw.apparmor=deny /etc/hosts rw,")
    check_denied(name, "cat /etc/hosts")
    before = init_pid(name)
    lxc("config", "set", name, "raw.apparmor=deny /etc/passwd rw,")
    check_denied(name, "cat /etc/passwd")
    check_works(name, "cat /etc/hosts")
    lxc("config", "unset", name, "raw.apparmor")
    check_works(name, "cat /etc/passwd")
    assert init_pid(name) == before


def test_wrong_rules_are_refused(launch: Launch) -> None:
    name = launch()
    assert "raw.apparmor" in refused("config", "set", name, "raw.apparmor=no rule at all")
    assert lxc("config", "get", name, "raw.apparmor") == "\n"
    said = refused("init", "busybox", "never", "-c", "raw.apparmor=deny /x")
    assert "raw.apparmor" in said
    lxc("restart", name)


def test_nesting(launch: Launch) -> None:
    name = launch("-c", "security.nesting=true")
    lxc("exec", name, "--", "mkdir", "/m")
    check_works(name, "mount -t proc proc /m && umount /m")
    check_works(name, "unshare -m mount --rbind / /m")
    assert loaded(name)


def test_container_loads_profiles_into_its_own_namespace(launch: Launch) -> None:
    name = launch()
    namespace = SECURITY / "policy/namespaces" / profile_of(name)
    assert namespace.is_dir()
    binary = run("sh", "-c", "printf 'profile mine { file, }' | apparmor_parser -QS | base64")
    put = "base64 -d > /p && cat /p > /sys/kernel/security/apparmor/.load"
    lxc("exec", name, "--", "sh", "-c", "mount -t securityfs s /sys/kernel/security; true")
    lxc("exec", name, "--", "sh", "-c", put, input=binary.stdout)
    assert [path.name.partition(".")[0] for path in (namespace / "profiles").iterdir()] == ["mine"]
    assert "mine (enforce)" not in (SECURITY / "profiles").read_text().splitlines()


def test_daemon_restart_keeps_the_profile(launch: Launch) -> None:
    name = launch()
    wanted = confinement(init_pid(name))
    run("systemctl", "restart", "nova-lxd.service")
    wait_for(lambda: loaded(name), "the profile")
    assert confinement(init_pid(name)) == wanted
    lxc("stop", "-f", name)
    assert not loaded(name)
