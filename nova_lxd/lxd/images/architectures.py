# SPDX-License-Identifier: Apache-2.0
"""Names of machine architectures: LXD's, and the other ones that images use for them."""

from __future__ import annotations

import platform

from nova_lxd.lxd.errors import BadRequest

#: LXD's name of each architecture and the names that distributions give to it.
ALIASES: dict[str, tuple[str, ...]] = {
    "i686": ("i386", "i586", "386", "x86", "generic_32"),
    "x86_64": ("amd64", "generic_64"),
    "armv7l": ("armel", "armhf", "arm", "armhfp", "armv7a_hardfp", "armv7", "armv7a_vfpv3_hardfp"),
    "aarch64": ("arm64", "arm64_generic"),
    "ppc": ("powerpc",),
    "ppc64": ("powerpc64", "ppc64"),
    "ppc64le": ("ppc64el",),
    "s390x": ("mainframe",),
    "mips": ("mipsel",),
    "mips64": ("mips64el",),
    "riscv32": (),
    "riscv64": (),
}
_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}
#: Architectures whose programs a kernel of the key can run as well.
_PERSONALITIES = {"x86_64": "i686", "aarch64": "armv7l", "ppc64": "ppc", "s390x": ""}


def normalise(name: str) -> str:
    """LXD's name for ``name``.

    :raises BadRequest: LXD knows no such architecture.
    """
    try:
        return _NAMES[name]
    except KeyError:
        raise BadRequest(f"Architecture isn't supported: {name[:64]}") from None


def host() -> str:
    """The architecture of this host, in LXD's name."""
    return normalise(platform.machine())


def runnable() -> list[str]:
    """What this host runs, its own architecture first."""
    own = host()
    return [name for name in (own, _PERSONALITIES.get(own, "")) if name]
