# SPDX-License-Identifier: Apache-2.0
"""Instance configuration keys (``lxc config set INSTANCE KEY VALUE``; LXD doc "Instance options").

Every key once: type, validator, default, whether a change reaches a running instance, and one
sentence.  ``scope`` tells where a key may be set: ``instance`` keys are refused in profiles.
"""

from __future__ import annotations

from collections.abc import Mapping

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.schema import instancevalues as v
from nova_lxd.lxd.schema.configkeys import Key, KeyTable, Validator, any_text, is_true

_BOOT = (
    Key("boot.autostart", "bool", "Start when the daemon starts; unset: as it was.", v.boolean),
    Key("boot.autostart.delay", "integer", "Seconds to wait after starting it.", v.int64, "0"),
    Key("boot.autostart.priority", "integer", "Higher starts first.", v.int64, "0"),
    Key("boot.host_shutdown_timeout", "integer", "Seconds for a clean stop.", v.int64, "30"),
    Key("boot.stop.priority", "integer", "Higher stops first.", v.int64, "0"),
)

_CLOUD_INIT = (
    Key("cloud-init.network-config", "string", "Network configuration seed of cloud-init."),
    Key("cloud-init.user-data", "string", "User data of cloud-init."),
    Key("cloud-init.vendor-data", "string", "Vendor data of cloud-init."),
    Key(
        "cluster.evacuate",
        "string",
        "What evacuating a cluster's member does; one server is never evacuated.",
        v.choice("auto", "migrate", "live-migrate", "stop"),
        "auto",
    ),
)

_LIMITS = (
    Key("limits.cpu", "string", "Number of CPUs, or a set such as 0-3,5.", v.cpu_set),
    Key("limits.cpu.allowance", "string", "Share (50%) or cap (25ms/100ms).", v.cpu_allowance),
    Key("limits.cpu.priority", "integer", "Weight against others, 0 to 10.", v.priority, "10"),
    Key("limits.disk.priority", "integer", "Weight of I/O, 0 to 10.", v.priority, "5"),
    Key("limits.hugepages.1GB", "size", "Limit of 1 GB huge pages.", v.size),
    Key("limits.hugepages.1MB", "size", "Limit of 1 MB huge pages.", v.size),
    Key("limits.hugepages.2MB", "size", "Limit of 2 MB huge pages.", v.size),
    Key("limits.hugepages.64KB", "size", "Limit of 64 kB huge pages.", v.size),
    Key("limits.kernel.*", "string", "Limits of setrlimit(2): N or SOFT:HARD.", v.rlimit),
    Key("limits.memory", "string", "Memory in bytes or percent of the host's.", v.memory),
    Key("limits.memory.enforce", "string", "How.", v.choice("hard", "soft"), "hard"),
    Key("limits.memory.swap", "bool", "Whether it may swap.", v.boolean, "true"),
    Key("limits.memory.swap.priority", "integer", "Higher swaps later, 0-10.", v.priority, "10"),
    Key(
        "limits.network.priority",
        "integer",
        "Priority of its packets, 0-10, where the host has cgroup v1's net_prio.",
        v.priority,
        "0",
    ),
    Key("limits.processes", "integer", "Number of processes.", v.int64),
)

_SECURITY = (
    Key("security.devlxd", "bool", "Whether /dev/lxd is there.", v.boolean, "true", live=True),
    Key("security.devlxd.images", "bool", "Images over /dev/lxd.", v.boolean, "false", live=False),
    Key("security.idmap.base", "integer", "First host id of its range.", v.uint32, live=False),
    Key("security.idmap.isolated", "bool", "A range of its own.", v.boolean, "false", live=False),
    Key("security.idmap.size", "integer", "Size of its range.", v.uint32, live=False),
    Key("security.nesting", "bool", "Containers inside it.", v.boolean, "false", live=True),
    Key("security.privileged", "bool", "Root inside is root.", v.boolean, "false", live=False),
    Key("security.protection.delete", "bool", "Refuse to delete it.", v.boolean, "false"),
    Key("security.protection.shift", "bool", "Never shift its files.", v.boolean, "false"),
    Key("security.syscalls.allow", "string", "Calls allowed, one a line.", live=False),
    Key("security.syscalls.deny", "string", "Calls denied, one a line.", live=False),
    Key("security.syscalls.deny_compat", "bool", "Deny 32-bit calls.", v.boolean, live=False),
    Key(
        "security.syscalls.deny_default", "bool", "LXD's list.", v.boolean, "true", live=False
    ),
    Key("security.syscalls.blacklist", "string", "Old name of deny.", live=False),
    Key("security.syscalls.blacklist_compat", "bool", "Old name.", v.boolean, live=False),
    Key("security.syscalls.blacklist_default", "bool", "Old name.", v.boolean, live=False),
    Key("security.syscalls.whitelist", "string", "Old name of allow.", live=False),
    Key(
        "security.syscalls.intercept.*",
        "bool",
        "Calls served by the daemon; not offered here, so only false.",
        v.not_offered,
        "false",
        live=False,
    ),
)

_SYSTEM = (
    Key("environment.*", "string", "Environment of init and of exec.", v.environment, live=True),
    Key("linux.kernel_modules", "string", "Modules loaded before start.", live=True),
    Key("linux.sysctl.*", "string", "Kernel parameters of its namespaces.", v.one_line, live=True),
    Key("migration.incremental.memory", "bool", "Live migration: not yet.", v.boolean, "false"),
    Key("migration.incremental.memory.goal", "integer", "Likewise.", v.uint32, "70"),
    Key("migration.incremental.memory.iterations", "integer", "Likewise.", v.uint32, "10"),
    Key("nvidia.driver.capabilities", "string", "Parts of the driver.", live=False),
    Key("nvidia.require.cuda", "string", "Version expression.", live=False),
    Key("nvidia.require.driver", "string", "Version expression.", live=False),
    Key("nvidia.runtime", "bool", "Pass the NVIDIA runtime.", v.boolean, "false", live=False),
    Key("raw.apparmor", "string", "Lines added to the profile.", live=True),
    Key("raw.idmap", "string", "Lines: uid|gid|both HOST CONTAINER.", v.raw_idmap, live=False),
    Key("raw.lxc", "string", "Lines of liblxc configuration.", v.raw_lxc, live=False),
    Key("raw.seccomp", "string", "A whole seccomp policy.", live=False),
)

_SNAPSHOTS = (
    Key("snapshots.expiry", "string", "Life of new snapshots, such as 1d.", v.expiry),
    Key("snapshots.pattern", "string", "Name of scheduled snapshots.", any_text, "snap%d"),
    Key("snapshots.schedule", "string", "Cron expression or aliases.", v.schedule),
    Key("snapshots.schedule.stopped", "bool", "When stopped too.", v.boolean, "false"),
)

_INSTANCE_ONLY = (
    Key("image.*", "string", "Properties of its image.", scope="instance"),
    Key("volatile.*", "string", "The daemon's own notes.", scope="instance"),
)

INSTANCE_KEYS = KeyTable(
    "instance",
    (
        *_BOOT,
        *_CLOUD_INIT,
        *_LIMITS,
        *_SECURITY,
        *_SYSTEM,
        *_SNAPSHOTS,
        *_INSTANCE_ONLY,
        Key("user.*", "string", "Free keys."),
    ),
)

VOLATILE_KEYS = frozenset(
    (
        "volatile.apply_quota",
        "volatile.apply_template",
        "volatile.base_image",
        "volatile.cloud-init.instance-id",
        "volatile.evacuate.origin",
        "volatile.idmap.base",
        "volatile.idmap.current",
        "volatile.idmap.next",
        "volatile.last_state.idmap",
        "volatile.last_state.power",
        "volatile.uuid",
        "volatile.uuid.generation",
    )
)
_VOLATILE_DEVICE_SUFFIXES = (
    ".apply_quota",
    ".ceph_rbd",
    ".host_name",
    ".hwaddr",
    ".name",
    ".mtu",
    ".id",
    ".vgpu.uuid",
)
_VOLATILE_LAST_STATE = ".last_state."


# The daemon reads these back, so what a client writes into them must make sense.
_VOLATILE_CHECKS = {
    "volatile.idmap.base": v.uint32,
    "volatile.idmap.current": v.id_map,
    "volatile.idmap.next": v.id_map,
    "volatile.last_state.idmap": v.id_map,
}
_VOLATILE_SUFFIX_CHECKS = {
    ".hwaddr": v.mac_address,
    ".host_name": v.interface_name,
    ".name": v.interface_name,
    ".mtu": v.uint32,
}


def _check_of(name: str, key: Key) -> Validator:
    """The validator of a key; volatile ones have one by name or by their last part."""
    if not name.startswith("volatile."):
        return key.check
    suffix = "." + name.rpartition(".")[2]
    return _VOLATILE_CHECKS.get(name) or _VOLATILE_SUFFIX_CHECKS.get(suffix) or key.check


def _known_volatile(name: str) -> bool:
    return (
        name in VOLATILE_KEYS
        or name.endswith(_VOLATILE_DEVICE_SUFFIXES)
        or (_VOLATILE_LAST_STATE in name and name.count(".") >= 3)
    )


def validate(config: Mapping[str, str], *, profile: bool = False) -> None:
    """Check the configuration of an instance or (``profile``) of a profile.

    :raises BadRequest: LXD's sentence for the first key that is unknown or has a bad value.
    """
    for name, value in config.items():
        key = INSTANCE_KEYS.find(name) if len(name) <= 255 else None
        if profile and name.startswith("volatile."):
            raise BadRequest("Volatile keys can only be set on instances")
        if profile and name.startswith("image."):
            raise BadRequest("Image keys can only be set on instances")
        if "\n" in name and not name.startswith("user."):
            key = None  # liblxc's configuration is made of lines
        if key is None or (name.startswith("volatile.") and not _known_volatile(name)):
            raise BadRequest(f"Unknown configuration key: {name[:255]}")
        if "\0" in value or "\0" in name:
            raise BadRequest(f"Invalid value for config key {name!r}: it contains a NUL byte")
        problem = _check_of(name, key)(value) if value else None
        if problem:
            raise BadRequest(f"Invalid value for config key {name!r}: {problem}")
    _validate_together(config)


def _validate_together(config: Mapping[str, str]) -> None:
    syscalls = "security.syscalls."
    allowed = bool(config.get(f"{syscalls}allow"))
    denied = bool(config.get(f"{syscalls}deny")) or any(
        is_true(config.get(f"{syscalls}{part}")) for part in ("deny_default", "deny_compat")
    )
    if config.get("raw.seccomp") and (allowed or denied):
        raise BadRequest("raw.seccomp is mutually exclusive with security.syscalls*")
    if allowed and denied:
        raise BadRequest(
            "security.syscalls.allow is mutually exclusive with security.syscalls.deny*"
        )
    privileged = v.is_true(config.get("security.privileged"))
    if privileged and v.is_true(config.get("nvidia.runtime")):
        raise BadRequest("nvidia.runtime is incompatible with privileged containers")
