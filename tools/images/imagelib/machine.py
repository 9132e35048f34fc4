# SPDX-License-Identifier: Apache-2.0
"""The disk of a whole Debian machine for User Mode Linux, ready to run the daemon.

It is no system container: it has the modules of that kernel, and the host's programs that the
daemon uses.  Directories of the real host are shared with it by its kernel command line.
"""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagelib.debian import bootstrap, forget_packages
from imagelib.pack import EPOCH, HERE, BuildError, Recipe, copy_overlay, overlay_texts, run

OVERLAY = HERE / "machine"
MODULES = Path("/usr/lib/uml/modules")
PACKAGES = (
    "apparmor",
    "attr",
    "btrfs-progs",
    "busybox-static",
    "dbus",
    "dnsmasq-base",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "liblxc-common",
    "liblxc1",
    "lxcfs",
    "lxd-client",
    "nftables",
    "procps",
    "python3",
    "rsync",
    "squashfs-tools",
    "systemd",
    "systemd-sysv",
    "uidmap",
    "xfsprogs",
    "xz-utils",
)
# They run by the clock or wait for hardware; nothing here needs them.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "systemd-networkd-wait-online.service",
)


@dataclass(frozen=True)
class MachineRecipe(Recipe):
    """``suite`` from ``mirror`` with systemd as process 1."""

    suite: str
    mirror: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"machine-{self.suite}"

    def _kernels(self) -> list[Path]:
        found = sorted(MODULES.glob("*/modules.dep"))
        if not found:
            raise BuildError(f"{MODULES} holds no modules: install user-mode-linux")
        return [path.parent for path in found]

    def inputs(self) -> bytes:
        parts = [self.suite, *PACKAGES, *_MASKED, *(path.name for path in self._kernels())]
        return "\0".join([*parts, *overlay_texts(OVERLAY)]).encode()

    def tree(self, root: Path) -> None:
        bootstrap(root, self.suite, self.mirror, PACKAGES)
        for kernel in self._kernels():
            shutil.copytree(kernel, root / "lib/modules" / kernel.name, symlinks=True)
        copy_overlay(OVERLAY, root)
        (root / "etc/hostname").write_text("machine\n", encoding="utf-8")
        (root / "etc/machine-id").write_text("", encoding="utf-8")
        systemctl = ("chroot", root, "/usr/bin/systemctl", "--root=/")
        run([*systemctl, "enable", "shared-files.service", "task.service"])
        run([*systemctl, "mask", *_MASKED])
        forget_packages(root)

    def metadata(self) -> dict[str, Any]:
        return {
            "architecture": platform.machine(),
            "creation_date": EPOCH,
            "properties": {"os": "debian", "release": self.suite, "variant": "machine"},
            "templates": {},
        }
