# SPDX-License-Identifier: Apache-2.0
"""What keeps a container in: seccomp policy and, where the kernel has it, AppArmor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import apparmor, seccomp
from nova_lxd.lxd.host.idmap import Idmap
from nova_lxd.lxd.host.run import ProgramError
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


def _profile(
    ctx: Context, project: str, name: str, config: Mapping[str, str], *, privileged: bool
) -> str:
    """The text of the instance's AppArmor profile."""
    stored = storage_name(project, name)
    return apparmor.profile_text(
        apparmor.profile_name(ctx.paths.tag, stored),
        privileged=privileged,
        nesting=is_true(config.get("security.nesting")),
        namespace=_namespace(ctx, stored),
        raw=config.get("raw.apparmor", ""),
    )


def _namespace(ctx: Context, stored: str) -> str:
    """The AppArmor namespace that the instance may load profiles into; "" where there is none."""
    return apparmor.namespace_name(ctx.paths.tag, stored) if apparmor.stacking() else ""


def check(ctx: Context, project: str, name: str, config: Mapping[str, str]) -> None:
    """Let AppArmor's parser read ``raw.apparmor``, where there is one.

    :raises BadRequest: it is refused.
    """
    if not config.get("raw.apparmor") or not apparmor.available():
        return
    privileged = is_true(config.get("security.privileged"))
    try:
        apparmor.validate(_profile(ctx, project, name, config, privileged=privileged))
    except ProgramError as exc:
        said = " ".join(exc.stderr.split())
        raise BadRequest(f"Invalid raw.apparmor: AppArmor's parser refuses it: {said}") from exc


def prepare(
    ctx: Context, project: str, name: str, config: Mapping[str, str], idmap: Idmap
) -> Items:
    """Write and load what the instance needs; the liblxc items that use it.

    :raises ProgramError: AppArmor's parser failed.
    """
    items = seccomp.config_items(_seccomp_path(ctx, project, name), policy(config))
    if not apparmor.available():
        return items
    stored = storage_name(project, name)
    namespace = _namespace(ctx, stored)
    if namespace:
        apparmor.make_namespace(namespace)
    reload(ctx, project, name, config, idmap)
    profile = apparmor.profile_name(ctx.paths.tag, stored)
    return items + apparmor.config_items(profile, namespace)


def reload(
    ctx: Context, project: str, name: str, config: Mapping[str, str], idmap: Idmap
) -> None:
    """Bring the AppArmor profile, also that of a running instance, in line with ``config``."""
    text = _profile(ctx, project, name, config, privileged=not idmap)
    apparmor.load(_apparmor_path(ctx, project, name), text)


def remove(ctx: Context, project: str, name: str) -> None:
    """Remove what :func:`prepare` made; idempotent."""
    _seccomp_path(ctx, project, name).unlink(missing_ok=True)
    apparmor.unload(_apparmor_path(ctx, project, name))
    if apparmor.available():
        namespace = _namespace(ctx, storage_name(project, name))
        if namespace:
            apparmor.remove_namespace(namespace)
