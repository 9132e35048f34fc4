# SPDX-License-Identifier: Apache-2.0
"""What keeps a container in: seccomp policy and, where the kernel has it, AppArmor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nova_lxd.lxd.host import apparmor, seccomp
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.instances.context import Context
from nova_lxd.lxd.paths import storage_name
from nova_lxd.lxd.schema.configkeys import is_true

Items = list[tuple[str, str]]


def _seccomp_path(ctx: Context, project: str, name: str) -> Path:
    return ctx.paths.security / "seccomp" / storage_name(project, name)


def _apparmor_path(ctx: Context, project: str, name: str) -> Path:
    return ctx.paths.security / "apparmor" / storage_name(project, name)


def policy(config: Mapping[str, str]) -> str:
    """The seccomp policy of ``security.syscalls.*`` and ``raw.seccomp``, old names included."""

    def value(new: str, old: str) -> str:
        prefix = "security.syscalls."
        return config.get(prefix + new) or config.get(prefix + old) or ""

    return seccomp.policy(
        deny_default=is_true(value("deny_default", "blacklist_default") or "true"),
        deny_compat=is_true(value("deny_compat", "blacklist_compat")),
        deny=value("deny", "blacklist"),
        allow=value("allow", "whitelist"),
        raw=config.get("raw.seccomp", ""),
    )


def prepare(
    ctx: Context, project: str, name: str, config: Mapping[str, str], idmap: Idmap
) -> Items:
    """Write and load what the instance needs; the liblxc items that use it.

    :raises ProgramError: ``raw.apparmor`` is refused by AppArmor's parser.
    """
    items = seccomp.config_items(_seccomp_path(ctx, project, name), policy(config))
    if not apparmor.available():
        return items
    stored = storage_name(project, name)
    profile = apparmor.profile_name(ctx.paths.tag, stored)
    nesting = is_true(config.get("security.nesting"))
    namespace = ""
    if nesting and apparmor.stacking():
        namespace = apparmor.namespace_name(ctx.paths.tag, stored)
    text = apparmor.profile_text(
        profile,
        privileged=not idmap,
        nesting=nesting,
        namespace=namespace,
        raw=config.get("raw.apparmor", ""),
    )
    apparmor.load(_apparmor_path(ctx, project, name), text)
    return items + apparmor.config_items(profile, namespace)


def remove(ctx: Context, project: str, name: str) -> None:
    """Remove what :func:`prepare` made; idempotent."""
    _seccomp_path(ctx, project, name).unlink(missing_ok=True)
    apparmor.unload(_apparmor_path(ctx, project, name))
