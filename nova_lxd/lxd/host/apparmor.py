# SPDX-License-Identifier: Apache-2.0
"""AppArmor profiles of containers; on a kernel without AppArmor there is nothing to do."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from nova_lxd.lxd.host.run import run

_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_FEATURES = Path("/sys/kernel/security/apparmor/features")
_PROFILES = Path("/sys/kernel/security/apparmor/profiles")
_NAMESPACES = Path("/sys/kernel/security/apparmor/policy/namespaces")
_CURRENT = Path("/proc/self/attr/current")
_PARSER = "apparmor_parser"

# All that containers may write below these, LXD's list: what has a namespace of its own, or rules
# of its own.  "NAME*" allows names that begin so, "NAME/" what is below a directory.
_WRITABLE = {
    "@{PROC}/sys/": (
        "kernel/domainname",
        "kernel/hostname",
        "kernel/msg*",
        "kernel/sem*",
        "kernel/shm*",
        "net/",
    ),
    "/sys/": ("class/net/", "devices/virtual/net/", "fs/bpf/", "fs/cgroup/"),
}
_POLICY = "kernel/security/apparmor/"
# What no container may touch, however it is configured.
_DENIED = """\
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/acpi/** rwklx,
  deny @{PROC}/bus/** wklx,
  deny @{PROC}/sys/fs/binfmt_misc/{,**} rwklx,
  deny /sys/firmware/efi/efivars/{,**} rwklx,
  deny /sys/kernel/{config,debug,tracing}/{,**} rwklx,
  # The file system may be the host's own, which stays writable for all who use it.  Binding it
  # read-only to its place is another thing.
  deny mount options in (ro,remount,silent,nosuid,nodev,noexec,noatime,nodiratime,relatime) -> /,
"""
# Where alone a privileged container may mount these: rules go by path.  Binding what is mounted
# elsewhere cannot be refused: systemd does it for its services, in the second of the directories.
_SERVICE_ROOT = "run/systemd/unit-root/"
_PLACES = (
    ("proc", ("proc/", f"{_SERVICE_ROOT}proc/")),
    ("sysfs", ("sys/", f"{_SERVICE_ROOT}sys/")),
    (
        "(binfmt_misc,configfs,debugfs,efivarfs,pstore,securityfs,tracefs)",
        ("proc/", "sys/"),
    ),
)


def _all_but(base: str, kept: Sequence[str]) -> list[str]:
    """Patterns that together match everything below ``base`` but what is kept.

    AppArmor has no "all but" where the longest match wins; so the exceptions are spelt out letter
    by letter: all that begins otherwise, at each letter.
    """
    patterns = []
    for prefix in sorted({name[:n] for name in kept for n in range(len(name))}):
        following = {n[len(prefix)] for n in kept if n.startswith(prefix) and n != prefix}
        if following == {"/"}:  # a directory's name ends here
            patterns.append(f"{base}{prefix}?*{{,/**}}")
        elif following != {"*"}:
            letters = "".join(sorted(following - {"/"}))
            patterns.append(f"{base}{prefix}[^{letters}]*{{,/**}}")
    for name in kept:
        if name.endswith("*"):
            patterns.append(f"{base}{name}/**")
        elif not name.endswith("/"):
            patterns.append(f"{base}{name}?*{{,/**}}")
    return patterns


def _kernel_settings(loads_policy: bool) -> list[str]:
    """Rules against writing to settings of the host's kernel."""
    rules = []
    for base, kept in _WRITABLE.items():
        if base == "/sys/" and loads_policy:
            kept = (*kept, _POLICY)
        rules += [f"  deny {pattern} wklx,\n" for pattern in _all_but(base, kept)]
    return rules


def _misplaced_mounts() -> list[str]:
    """Rules against mounting what has rules where they do not apply."""
    return [
        f"  deny mount fstype={kinds} -> {pattern},\n"
        for kinds, places in _PLACES
        for pattern in _all_but("/", places)
    ]


@functools.cache
def available() -> bool:
    """Does this kernel enforce AppArmor, is its parser installed, and are we free to use it?

    A daemon that is confined itself (in a container that may not load profiles) is not.
    """
    try:
        enabled = _ENABLED.read_text().strip() == "Y"
        free = _CURRENT.read_text().strip() == "unconfined"
    except OSError:  # not this security module, or none
        return False
    return enabled and free and _FEATURES.is_dir() and shutil.which(_PARSER) is not None


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

    :param privileged: without a user namespace, which makes these rules all that holds it.
    :param nesting: containers inside: it may mount anything that its user namespace may.
    :param namespace: an AppArmor namespace that it may load profiles into.
    :param raw: lines of ``raw.apparmor``.
    """
    parts = [
        "#include <tunables/global>\n",
        f'profile "{profile}" flags=(attach_disconnected,mediate_deleted) {{\n',
        "  capability,\n  dbus,\n  file,\n  network,\n  unix,\n",
        "  mount,\n  umount,\n  pivot_root,\n",
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
        ]
    if privileged and not nesting:
        parts += _misplaced_mounts()
    parts += [_DENIED, *_kernel_settings(bool(namespace))]
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


def make_namespace(name: str) -> None:
    """Make an AppArmor namespace; fine when it is there.

    :raises OSError: the kernel refuses it.
    """
    (_NAMESPACES / name).mkdir(exist_ok=True)


def remove_namespace(name: str) -> None:
    """Remove an AppArmor namespace and the profiles in it; fine when there is none."""
    with contextlib.suppress(FileNotFoundError):
        (_NAMESPACES / name).rmdir()


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
