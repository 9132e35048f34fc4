# SPDX-License-Identifier: Apache-2.0
"""A Debian system container with systemd, sshd and cloud-init, made by mmdebstrap."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagelib.pack import EPOCH, HERE, BuildError, Recipe, copy_overlay, overlay_texts, run

OVERLAY = HERE / "debian"
PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "less",
    "netbase",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    # networkd waits for udev's word on each link wherever /sys can be written.
    "udev",
)
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
)
KEPT = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
_DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_SEEDS = {"meta-data": "meta", "user-data": "user", "vendor-data": "vendor"}


def host_mirror() -> str:
    """The mirror that this machine's apt takes Debian's main archive from.

    :raises BuildError: it has none, as outside Debian.
    """
    argv = ["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL)"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        said = ""
    for line in said.splitlines():
        site, _, origin = line.partition(" ")
        if origin == "Debian Debian":  # the security archive's label differs
            return site
    raise BuildError(
        "Finding a Debian mirror failed: this machine's apt names none (run 'apt-get update' "
        "once); give one with --mirror URL"
    )


def bootstrap(root: Path, suite: str, mirror: str, packages: Sequence[str]) -> None:
    """Install a minimal Debian with these packages, documentation left out, into ``root``."""
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    options += [f"--dpkgopt=path-include={pattern}" for pattern in KEPT]
    run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--components=main",
            f"--include={','.join(packages)}",
            '--aptopt=Apt::Install-Recommends "false"',
            *options,
            suite,
            root,
            mirror,
        ]
    )


def forget_packages(root: Path) -> None:
    """Remove apt's lists and caches."""
    for rubbish in ("var/cache/apt", "var/lib/apt/lists", "var/log/apt"):
        shutil.rmtree(root / rubbish, ignore_errors=True)
        (root / rubbish).mkdir(parents=True)


@dataclass(frozen=True)
class DebianRecipe(Recipe):
    """``suite`` from ``mirror``; ``seed`` says whether LXD's templates feed cloud-init."""

    suite: str
    mirror: str
    seed: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"debian-{self.suite}"

    def inputs(self) -> bytes:
        parts = [self.suite, *PACKAGES, *EXCLUDED, *KEPT]
        return "\0".join([*parts, *overlay_texts(OVERLAY)]).encode()

    def tree(self, root: Path) -> None:
        bootstrap(root, self.suite, self.mirror, PACKAGES)
        self._finish(root)

    def _finish(self, root: Path) -> None:
        """What belongs to one guest leaves the image; networkd and resolved take over."""
        copy_overlay(OVERLAY, root)
        for key in (root / "etc" / "ssh").glob("ssh_host_*"):
            key.unlink()
        (root / "etc" / "machine-id").write_text("", encoding="utf-8")
        (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
        (root / "etc" / "hostname").unlink(missing_ok=True)
        resolv = root / "etc" / "resolv.conf"
        resolv.unlink(missing_ok=True)
        resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")
        # The image's own programs: the host need not have systemd.
        units = ("systemd-networkd", "systemd-resolved")
        run(["chroot", root, "/usr/bin/systemctl", "--root=/", "enable", *units])
        run(["chroot", root, "/usr/bin/passwd", "-l", "root"])
        forget_packages(root)
        # A link to the image's own systemd, which the host need not have.
        init = root / "sbin" / "init"
        if not init.exists() and not init.is_symlink():
            raise BuildError(f"mmdebstrap left no /sbin/init in {root}")

    def metadata(self) -> dict[str, Any]:
        machine = platform.machine()
        architecture = _DEBIAN_ARCH.get(machine, machine)
        templates: dict[str, Any] = {
            "/etc/hostname": {"when": ["create", "copy"], "template": "hostname.tpl"},
            "/etc/hosts": {"when": ["create", "copy"], "template": "hosts.tpl"},
        }
        if self.seed == "nocloud":
            base = "/var/lib/cloud/seed/nocloud-net"
            for name, short in _SEEDS.items():
                templates[f"{base}/{name}"] = {
                    "when": ["create", "copy"],
                    "template": f"cloud-init-{short}.tpl",
                    "properties": {"default": "#cloud-config\n{}"},
                }
            templates[f"{base}/network-config"] = {
                "when": ["create", "copy"],
                "template": "cloud-init-network.tpl",
            }
        return {
            "architecture": machine,
            "creation_date": EPOCH,
            "properties": {
                "architecture": architecture,
                "description": f"Debian {self.suite} {architecture} (cloud-init, sshd)",
                "name": f"debian-{self.suite}-{architecture}",
                "os": "debian",
                "release": self.suite,
                "variant": "cloud",
            },
            "templates": templates,
        }
