# SPDX-License-Identifier: Apache-2.0
"""The one place that turns an instance's configuration into liblxc's."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nova_lxd.lxd.devices.interface import RunConfig
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import cgroup_settings as cs
from nova_lxd.lxd.host import cgroups
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.host.liblxc import hooks
from nova_lxd.lxd.instances import limits
from nova_lxd.lxd.paths import Paths
from nova_lxd.lxd.schema.configkeys import is_true
from nova_lxd.lxd.schema.instancevalues import raw_lxc_lines

Items = list[tuple[str, str]]

LXCFS = Path("/var/lib/lxcfs")
NVIDIA_HOOK = Path("/usr/share/lxc/hooks/nvidia")
CONSOLE_LOG = "console.log"
# liblxc's names of personalities.
_PERSONALITY = {
    "x86_64": "linux64",
    "i686": "linux32",
    "aarch64": "linux64",
    "armv7l": "linux32",
    "ppc64le": "linux64",
    "s390x": "linux64",
    "riscv64": "linux64",
}
# Parts of the host that LXD shows to every container where the host has them.
_BINDS = (
    ("/dev/fuse", "file"),
    ("/dev/net/tun", "file"),
)
_RBINDS = (
    "/proc/sys/fs/binfmt_misc",
    "/sys/firmware/efi/efivars",
    "/sys/fs/fuse/connections",
    "/sys/fs/pstore",
    # Process 1 of a guest would try to mount it, and fail.
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
)
# What root of a privileged container must not do to the host.
_DROPPED = "sys_time sys_module sys_rawio mac_admin mac_override"


@dataclass(frozen=True)
class StartPlan:
    """Everything a start needs to know, as values.

    :param config: expanded.
    :param runs: what the started devices want, in their order.
    :param cpus: the processors it is put on, empty for all.
    :param security: items of seccomp and AppArmor.
    """

    project: str
    name: str
    architecture: str
    config: Mapping[str, str]
    idmap: Idmap
    runs: tuple[RunConfig, ...]
    cpus: str = ""
    security: tuple[tuple[str, str], ...] = ()

    @property
    def privileged(self) -> bool:
        return not self.idmap

    def enabled(self, key: str, default: bool = False) -> bool:
        """A boolean key, with LXD's default."""
        value = self.config.get(key)
        return is_true(value) if value else default


def build(paths: Paths, plan: StartPlan) -> Items:
    """liblxc's configuration, in order."""
    run_dir = paths.instance_run(plan.project, plan.name)
    items: Items = [
        ("lxc.uts.name", plan.name),
        ("lxc.rootfs.path", f"dir:{paths.rootfs_mount(plan.project, plan.name)}"),
        ("lxc.cgroup.dir", paths.cgroup),
        ("lxc.arch", _PERSONALITY.get(plan.architecture, plan.architecture)),
        ("lxc.autodev", "1"),
        ("lxc.pty.max", "1024"),
        ("lxc.tty.max", "0"),
        *_console(paths, plan),
        *hooks.stop_hook_items(run_dir),
        *plan.idmap.lxc_config(),
        *_system_mounts(paths, plan),
        *_nvidia(plan),
        *plan.security,
        *_kernel(plan),
        *_cgroup(plan),
        *_devices(plan.runs),
    ]
    items += raw_lxc_lines(plan.config.get("raw.lxc", ""))
    return items


def _console(paths: Paths, plan: StartPlan) -> Items:
    log = paths.log(plan.project, plan.name) / CONSOLE_LOG
    return [
        ("lxc.console.buffer.size", "auto"),
        ("lxc.console.size", "auto"),
        ("lxc.console.logfile", str(log)),
    ]


def _entry(source: str, target: str, options: str, fstype: str = "none") -> tuple[str, str]:
    return ("lxc.mount.entry", f"{source} {target} {fstype} {options} 0 0")


def _system_mounts(paths: Paths, plan: StartPlan) -> Items:
    mixed = plan.privileged and not in_user_namespace()
    auto = "proc:mixed sys:mixed cgroup:mixed" if mixed else "proc:rw sys:rw cgroup:mixed"
    items = [("lxc.mount.auto", auto)]
    for source, kind in _BINDS:
        items.append(_entry(source, source[1:], f"bind,create={kind},optional"))
    for source in _RBINDS:
        items.append(_entry(source, source[1:], "rbind,create=dir,optional"))
    if plan.enabled("security.nesting"):
        # Unmasked ones, without which the kernel lets no nested container mount its own.
        items.append(_entry("proc", "dev/.lxc/proc", "create=dir,optional", "proc"))
        items.append(_entry("sys", "dev/.lxc/sys", "create=dir,optional", "sysfs"))
    if plan.enabled("security.devlxd", True) and paths.devlxd.is_dir():
        items.append(_entry(str(paths.devlxd), "dev/lxd", "bind,create=dir"))
    return items + _lxcfs()


def _nvidia(plan: StartPlan) -> Items:
    """The NVIDIA driver by its own liblxc hook (``nvidia.*``).

    :raises BadRequest: the hook or its tools are not installed.
    """
    if not plan.enabled("nvidia.runtime"):
        return []
    if not NVIDIA_HOOK.exists() or shutil.which("nvidia-container-cli") is None:
        raise BadRequest(
            "Starting with nvidia.runtime failed: The NVIDIA LXC hook or container tools couldn't "
            "be found; install libnvidia-container-tools"
        )
    variables = {
        "NVIDIA_VISIBLE_DEVICES": "none",
        "NVIDIA_DRIVER_CAPABILITIES": plan.config.get("nvidia.driver.capabilities")
        or "compute,utility",
        "NVIDIA_REQUIRE_CUDA": plan.config.get("nvidia.require.cuda", ""),
        "NVIDIA_REQUIRE_DRIVER": plan.config.get("nvidia.require.driver", ""),
    }
    items = [("lxc.environment", f"{k}={value}") for k, value in variables.items() if value]
    return [*items, ("lxc.hook.mount", str(NVIDIA_HOOK))]


def _lxcfs() -> Items:
    """What lxcfs offers of /proc and /sys, while it runs."""
    try:
        mounted = (LXCFS / "proc").stat().st_dev
        return list(_lxcfs_items(LXCFS, mounted))
    except OSError:  # not installed, not running (ENOTCONN)
        return []


@functools.lru_cache(maxsize=1)
def _lxcfs_items(lxcfs: Path, _mounted: int) -> tuple[tuple[str, str], ...]:
    """The entries, listed once for each mount: lxcfs is asked a dozen times for that."""
    top = lxcfs / "proc"
    names = sorted(entry.name for entry in top.iterdir())
    items = [_entry(str(top / name), f"proc/{name}", "bind,optional") for name in names]
    online = lxcfs / "sys/devices/system/cpu"
    if online.exists():
        items.append(_entry(str(online), "sys/devices/system/cpu", "rbind,optional"))
    return tuple(items)


def _kernel(plan: StartPlan) -> Items:
    items: Items = []
    if plan.privileged:
        items.append(("lxc.cap.drop", _DROPPED))
    for key, value in sorted(plan.config.items()):
        if key.startswith("linux.sysctl."):
            items.append((f"lxc.sysctl.{key.removeprefix('linux.sysctl.')}", value))
        elif key.startswith("environment."):
            items.append(("lxc.environment", f"{key.removeprefix('environment.')}={value}"))
    return items + limits.rlimits(plan.config)


def _cgroup(plan: StartPlan) -> Items:
    settings = limits.at_start(plan.config)
    if plan.cpus:
        settings.append(cs.cpu_set(plan.cpus))
    if plan.privileged and not in_user_namespace():
        rules = [rule for run in plan.runs for rule in run.device_rules]
        settings.append(cs.devices((*cs.DEVICES_ALLOWED, *rules)))
    settings += cs.disk_throttles(throttles(plan.runs))
    return cgroups.layout().config_items(settings)


def throttles(runs: Iterable[RunConfig]) -> list[cs.Throttle]:
    """The I/O limits that disks ask for; those of one block device add up to the smallest."""
    merged: dict[str, list[int]] = {}
    for run in runs:
        for limit in run.block_limits:
            device = f"{limit.major}:{limit.minor}"
            wanted = [
                limit.read_bytes,
                limit.write_bytes,
                limit.read_operations,
                limit.write_operations,
            ]
            known = merged.get(device)
            if known is None:
                merged[device] = wanted
            else:
                merged[device] = [
                    min(filter(None, pair), default=0) for pair in zip(known, wanted, strict=True)
                ]
    return [cs.Throttle(device, *numbers) for device, numbers in sorted(merged.items())]


def _devices(runs: Iterable[RunConfig]) -> Items:
    items: Items = []
    nics = 0
    for run in runs:
        items += run.liblxc
        for mount in run.mounts:
            items += mount.liblxc()
        for nic in run.nics:
            items += nic.liblxc(nics)
            nics += 1
    return items if nics else [("lxc.net.0.type", "empty"), *items]


@functools.cache
def in_user_namespace() -> bool:
    """Does the daemon itself run inside a container (ids are mapped)?"""
    first = Path("/proc/self/uid_map").read_text().split()
    return first[:3] != ["0", "0", "4294967295"]
