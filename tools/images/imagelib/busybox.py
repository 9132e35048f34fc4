# SPDX-License-Identifier: Apache-2.0
"""A system container of one static busybox: boots in some 10 ms, about 1 MB."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from imagelib.pack import EPOCH, HERE, BuildError, Recipe, copy_overlay, run

OVERLAY = HERE / "busybox"
UNIXCAT = HERE / "src" / "unixcat.c"
_PATHS = ("/usr/bin/busybox", "/bin/busybox")
_DIRECTORIES = (
    "bin sbin usr/bin usr/sbin etc dev proc sys tmp root run var/log var/lib/misc home mnt opt srv"
)
# These live in sbin on every distribution; scripts and clients name them by that path.
_SBIN = {"init", "halt", "reboot", "poweroff", "getty", "ip", "ifconfig", "route", "udhcpc"}


class BusyboxRecipe(Recipe):
    """Debian's static busybox as init, shell, DHCP client and all else, and unixcat."""

    name = "busybox"

    def __init__(self) -> None:
        found = [Path(path) for path in _PATHS if Path(path).exists()]
        if not found:
            raise SystemExit("tools/images/build: busybox is missing: install busybox-static")
        self._busybox = found[0]

    def inputs(self) -> bytes:
        parts = [self._busybox.read_bytes(), UNIXCAT.read_bytes()]
        for path in sorted(OVERLAY.rglob("*")):
            if path.is_file():
                mode = b"x" if os.access(path, os.X_OK) else b"-"
                parts.append(str(path.relative_to(OVERLAY)).encode() + mode + path.read_bytes())
        return b"\0".join(parts)

    def tree(self, root: Path) -> None:
        for name in _DIRECTORIES.split():
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "tmp").chmod(0o1777)
        (root / "root").chmod(0o700)
        binary = root / "bin" / "busybox"
        shutil.copyfile(self._busybox, binary)
        binary.chmod(0o755)
        listed = subprocess.run(
            [str(self._busybox), "--list"], check=True, capture_output=True, text=True
        )
        for applet in listed.stdout.split():
            if applet in _SBIN:
                (root / "sbin" / applet).symlink_to("../bin/busybox")
            elif applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        if not (root / "sbin" / "init").is_symlink() or not (root / "bin" / "sh").is_symlink():
            raise BuildError(f"{self._busybox} lacks the applets init or sh: use busybox-static")
        run(["cc", "-static", "-Os", "-s", "-Wall", "-o", root / "bin" / "unixcat", UNIXCAT])
        copy_overlay(OVERLAY, root)
        (root / "etc" / "shadow").chmod(0o640)

    def metadata(self) -> dict[str, Any]:
        machine = platform.machine()
        return {
            "architecture": machine,
            "creation_date": EPOCH,
            "properties": {
                "architecture": machine,
                "description": f"busybox system container ({machine})",
                "name": f"busybox-{machine}",
                "os": "busybox",
                "release": "1",
                "variant": "default",
            },
            "templates": {
                "/etc/hostname": {
                    "when": ["create", "copy", "rename"],
                    "template": "hostname.tpl",
                },
                "/etc/hosts": {"when": ["create", "copy", "rename"], "template": "hosts.tpl"},
                "/etc/template-once": {
                    "when": ["create"],
                    "create_only": True,
                    "template": "trace.tpl",
                    "properties": {"greeting": "once"},
                },
                "/etc/template-start": {
                    "when": ["start"],
                    "template": "trace.tpl",
                    "properties": {"greeting": "start"},
                },
            },
        }
