# SPDX-License-Identifier: Apache-2.0
"""AppArmor profiles of containers; on a kernel without AppArmor there is nothing to do."""

from __future__ import annotations

import functools
import hashlib
import shutil
from pathlib import Path

from nova_lxd.lxd.host.run import run

_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_FEATURES = Path("/sys/kernel/security/apparmor/features")
_PROFILES = Path("/sys/kernel/security/apparmor/profiles")
_PARSER = "apparmor_parser"

# What no container may touch, however it is configured: settings of the host's kernel that have
# no namespace.  AppArmor has no "all but": the patterns spell out the exceptions letter by letter.
_DENIED = """\
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/acpi/** wklx,
  deny @{PROC}/bus/** wklx,
  deny @{PROC}/sys/fs/binfmt_misc/** wklx,
  deny @{PROC}/sys/kernel/core_pattern wklx,
  deny @{PROC}/sys/kernel/modprobe wklx,
  deny @{PROC}/sys/kernel/hotplug wklx,
  deny @{PROC}/sys/kernel/sysrq wklx,
  deny @{PROC}/sys/kernel/{kptr_restrict,dmesg_restrict,perf_event_paranoid} wklx,
  deny @{PROC}/sys/kernel/random/** wklx,
  deny @{PROC}/sys/kernel/{usermodehelper,yama}/** wklx,
  deny @{PROC}/sys/vm/** wklx,
  deny /sys/firmware/efi/efivars/** rwklx,
  deny /sys/kernel/security/** wklx,
  deny /sys/kernel/{debug,tracing}/** rwklx,
  deny /sys/kernel/uevent_helper wklx,
  deny /sys/module/** wklx,
  deny /sys/power/** wklx,
"""
_MOUNTS_PRIVILEGED = """\
  # Mounts that do not open a door to the host's kernel.
  mount fstype=(proc,sysfs,tmpfs,devpts,mqueue,cgroup,cgroup2,overlay,fuse,fuse.*,nfs,nfs4),
  mount options=(rw,make-slave) -> **,
  mount options=(rw,make-rslave) -> **,
  mount options=(rw,make-private) -> **,
  mount options=(rw,make-rprivate) -> **,
  mount options=(rw,make-shared) -> **,
  mount options=(rw,make-rshared) -> **,
  mount options in (rw,ro,bind,rbind,remount,nosuid,nodev,noexec,relatime,nodiratime),
  mount options in (rw,move),
  deny mount fstype=debugfs,
  deny mount fstype=tracefs,
  deny mount fstype=securityfs,
"""


@functools.cache
def available() -> bool:
    """Does this kernel enforce AppArmor, and is its parser installed?"""
    try:
        enabled = _ENABLED.read_text().strip() == "Y"
    except FileNotFoundError:
        return False
    return enabled and _FEATURES.is_dir() and shutil.which(_PARSER) is not None


def stacking() -> bool:
    """Can a container load profiles of its own (AppArmor namespaces)?"""
    return available() and (_FEATURES / "domain" / "stack").exists()


def profile_name(tag: str, name: str) -> str:
    """The name of an instance's profile; ``tag`` is the daemon's (:attr:`..paths.Paths.tag`)."""
    full = f"nova-lxd-{tag}-{name}"
    # The kernel's limit is far above, but tools cut long names.
    return (
        full if len(full) <= 200 else full[:160] + hashlib.sha256(full.encode()).hexdigest()[:32]
    )


def namespace_name(tag: str, name: str) -> str:
    """The name of the AppArmor namespace of an instance that may load profiles."""
    return profile_name(tag, name).replace("/", "_")


def profile_text(
    profile: str, *, privileged: bool, nesting: bool, namespace: str = "", raw: str = ""
) -> str:
    """A profile for a system container.

    :param nesting: containers inside: it may mount anything that its user namespace may.
    :param namespace: an AppArmor namespace that it may load profiles into.
    :param raw: lines of ``raw.apparmor``.
    """
    parts = [
        "#include <tunables/global>\n",
        f'profile "{profile}" flags=(attach_disconnected,mediate_deleted) {{\n',
        "  capability,\n  dbus,\n  file,\n  network,\n  umount,\n  pivot_root,\n  unix,\n",
        "  # The host may signal and trace what runs inside, and all inside one another.\n",
        "  signal (receive),\n",
        "  ptrace (readby, tracedby),\n",
        f'  signal (send) peer="{profile}",\n',
        f'  ptrace (read, trace) peer="{profile}",\n',
    ]
    if namespace:
        parts += [
            "  # Profiles of its own, below its namespace.\n",
            f"  change_profile -> :{namespace}:*,\n  change_profile -> :{namespace}://*,\n",
            f"  signal (send) peer=:{namespace}:*,\n  signal (send) peer=:{namespace}://*,\n",
            f"  ptrace (read, trace) peer=:{namespace}:*,\n",
            "  change_profile -> **,\n",
        ]
    else:
        parts.append("  deny /sys/kernel/security/apparmor/** rwklx,\n")
    parts.append("  mount,\n" if nesting or not privileged else _MOUNTS_PRIVILEGED)
    parts.append(_DENIED)
    parts += [f"  {line.strip()}\n" for line in raw.splitlines() if line.strip()]
    parts.append("}\n")
    return "".join(parts)


def load(path: Path, text: str) -> bool:
    """Write a profile and load it into the kernel, replacing an older one; False without AppArmor.

    :raises ProgramError: the parser refused it (a mistake in ``raw.apparmor``, say).
    """
    if not available():
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text)
    run([_PARSER, "--replace", "--skip-cache", str(path)])
    return True


def unload(path: Path) -> None:
    """Remove a profile from the kernel and its file; fine when it was never loaded."""
    if not path.exists():
        return
    if available():
        name = path.read_text().partition('profile "')[2].partition('"')[0]
        if any(line.startswith(name + " ") for line in _PROFILES.read_text().splitlines()):
            run([_PARSER, "--remove", str(path)])
    path.unlink()


def validate(text: str) -> None:
    """Check a profile without loading it.

    :raises ProgramError: the parser refuses it.
    """
    if available():
        run([_PARSER, "--skip-kernel-load", "--skip-cache", "--quiet"], input=text.encode())


def config_items(profile: str, namespace: str = "") -> list[tuple[str, str]]:
    """The configuration that confines a container; nothing without AppArmor."""
    if not available():
        return []
    value = f"{profile}//&:{namespace}:" if namespace else profile
    return [("lxc.apparmor.profile", value)]
