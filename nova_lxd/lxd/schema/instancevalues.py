# SPDX-License-Identifier: Apache-2.0
"""Validators of instance configuration values: each returns what is wrong with a value, or None.

The sentences are LXD's own where clients are known to show them.
"""

from __future__ import annotations

import re

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.idmap import Idmap, parse_raw_idmap
from nova_lxd.lxd.schema.configkeys import Validator, is_true
from nova_lxd.lxd.schema.cron import schedule
from nova_lxd.lxd.schema.serverkeys import expiry
from nova_lxd.lxd.schema.sizes import parse_size

__all__ = (
    "boolean",
    "choice",
    "cpu_allowance",
    "cpu_set",
    "expiry",
    "id_map",
    "int64",
    "interface_name",
    "is_true",
    "mac_address",
    "memory",
    "not_offered",
    "parse_cpu_set",
    "priority",
    "raw_idmap",
    "raw_lxc",
    "rlimit",
    "schedule",
    "size",
    "uint32",
)

_BOOLEANS = frozenset(("true", "false", "1", "0", "yes", "no", "on", "off"))
_ALLOWANCE_PERCENT = re.compile(r"([0-9]{1,9})%", re.ASCII)
_ALLOWANCE_TIME = re.compile(r"([0-9]{1,9})ms/([0-9]{1,9})ms", re.ASCII)
_RLIMIT = re.compile(r"(unlimited|[0-9]{1,19})(:(unlimited|[0-9]{1,19}))?", re.ASCII)
_CPU_SPAN = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", re.ASCII)
_INTERFACE = re.compile(r"[!-.0-9;-~]{1,15}", re.ASCII)
MAX_CPUS = 8192
# What the daemon itself decides; a change of these would break its hold on the container.
_RAW_LXC_REFUSED = frozenset(
    (
        "lxc.cgroup.dir",
        "lxc.cgroup.dir.container",
        "lxc.cgroup.dir.monitor",
        "lxc.console.logfile",
        "lxc.ephemeral",
        "lxc.hook.post-stop",
        "lxc.include",
        "lxc.log.file",
        "lxc.logfile",
        "lxc.log.syslog",
        "lxc.syslog",
        "lxc.rootfs.path",
        "lxc.rootfs",
        "lxc.uts.name",
        "lxc.utsname",
    )
)
_RAW_LXC_NET = re.compile(
    r"lxc\.net(work)?(\.[0-9]+)?\.(ipv4|ipv6|ipv4\.address|ipv4\.gateway|ipv6\.address|ipv6\.gateway)"
)


def boolean(value: str) -> str | None:
    return None if value.lower() in _BOOLEANS else f'Invalid value for a boolean "{value}"'


def environment(value: str) -> str | None:
    """The value of an environment variable: liblxc's configuration has a line for each."""
    return "Environment variables cannot contain line breaks" if "\n" in value else None


def one_line(value: str) -> str | None:
    return "it contains a line break" if "\n" in value else None


def not_offered(value: str) -> str | None:
    """A switch of something that this server does not do."""
    return boolean(value) or ("It isn't supported by this server" if is_true(value) else None)


def _whole(value: str, low: int, high: int) -> str | None:
    text = value[1:] if value[:1] in "+-" else value
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        return f'Invalid value for an integer "{value[:64]}"'
    if not low <= int(value) <= high:
        return f"Value is outside {low} to {high}"
    return None


def int64(value: str) -> str | None:
    return _whole(value, -(2**63), 2**63 - 1)


def uint32(value: str) -> str | None:
    return _whole(value, 0, 2**32 - 1)


def priority(value: str) -> str | None:
    if _whole(value, -(2**63), 2**63 - 1):
        return f'Invalid value for an integer "{value[:64]}"'
    if 0 <= int(value) <= 10:
        return None
    return f'Invalid value for a limit "{value}". Must be between 0 and 10'


def choice(*choices: str) -> Validator:
    """One of a few words."""

    def check(value: str) -> str | None:
        if value in choices:
            return None
        return f'Invalid value "{value[:64]}" (not one of [{" ".join(choices)}])'

    return check


def size(value: str) -> str | None:
    """Bytes with an optional unit."""
    try:
        parse_size(value)
    except BadRequest as exc:
        return exc.message
    return None


def memory(value: str) -> str | None:
    """Bytes with a unit, or a percentage of the host's memory."""
    if value.endswith("%"):
        return _whole(value[:-1], 1, 100)
    return size(value)


def parse_cpu_set(value: str) -> list[int]:
    """The numbers of a CPU set such as ``0-3,5``, sorted.

    :raises ValueError: it is none.
    """
    cpus: set[int] = set()
    for part in value.split(","):
        match = _CPU_SPAN.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"Invalid CPU range {part[:64]!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= MAX_CPUS:
            raise ValueError(f"Invalid CPU range {part[:64]!r}")
        if not cpus.isdisjoint(range(first, last + 1)):
            raise ValueError("Cannot define CPU multiple times")
        cpus.update(range(first, last + 1))
    return sorted(cpus)


def cpu_set(value: str) -> str | None:
    """A count of CPUs or a set of them."""
    if value.isascii() and value.isdigit():
        return None if 0 < int(value[:9]) <= MAX_CPUS else "Invalid CPU limit"
    try:
        parse_cpu_set(value)
    except ValueError as exc:
        return str(exc)
    return None


def cpu_allowance(value: str) -> str | None:
    """``50%`` (a share under load) or ``25ms/100ms`` (a hard cap)."""
    percent = _ALLOWANCE_PERCENT.fullmatch(value)
    if percent:
        return None if int(percent[1]) > 0 else "Invalid allowance: it must be over 0%"
    span = _ALLOWANCE_TIME.fullmatch(value)
    if span and int(span[1]) > 0 and int(span[2]) > 0:
        return None
    return f'Invalid allowance "{value[:64]}": give N% or Nms/Nms'


def rlimit(value: str) -> str | None:
    """A limit of setrlimit(2): ``N``, ``unlimited`` or ``SOFT:HARD``."""
    return None if _RLIMIT.fullmatch(value) else f'Invalid resource limit "{value[:64]}"'


def raw_idmap(value: str) -> str | None:
    try:
        parse_raw_idmap(value)
    except BadRequest as exc:
        return exc.message
    return None


def id_map(value: str) -> str | None:
    """LXD's JSON form of an id map."""
    try:
        Idmap.from_json(value)
    except BadRequest as exc:
        return exc.message
    return None


def mac_address(value: str) -> str | None:
    return None if _MAC.fullmatch(value) else f'Invalid MAC address "{value[:64]}"'


def interface_name(value: str) -> str | None:
    if _INTERFACE.fullmatch(value) and value not in (".", ".."):
        return None
    return f'Invalid interface name "{value[:64]}"'


def raw_lxc_lines(value: str) -> list[tuple[str, str]]:
    """The ``KEY = VALUE`` items of a raw.lxc text.

    :raises ValueError: a line is none.
    """
    items = []
    for line in value.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, sep, rest = text.partition("=")
        if not sep:
            raise ValueError(f"Invalid raw.lxc line: {line[:128]}")
        items.append((key.strip().lower(), rest.strip()))
    return items


def raw_lxc(value: str) -> str | None:
    """Lines of liblxc configuration that leave the daemon's own settings alone."""
    try:
        items = raw_lxc_lines(value)
    except ValueError as exc:
        return str(exc)
    for key, _ in items:
        if key in _RAW_LXC_REFUSED:
            return f"Setting {key} is not allowed"
        if key.startswith(("lxc.net.", "lxc.network.")) and not _RAW_LXC_NET.fullmatch(key):
            return "Only interface-specific ipv4/ipv6 lxc.net. keys are allowed"
        if key.startswith("lxc.prlimit."):
            return f"Setting {key[:64]} is not allowed; use limits.kernel.{key[12:64]}"
        if not key.startswith("lxc."):
            return f"Invalid raw.lxc key {key[:64]}"
    return None
