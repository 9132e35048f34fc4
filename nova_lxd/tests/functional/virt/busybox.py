# SPDX-License-Identifier: Apache-2.0
"""A busybox guest of one megabyte, made from the host's static busybox."""

from __future__ import annotations

import io
import json
import pathlib
import subprocess
import tarfile

APPLETS = (
    "sh", "init", "ls", "cat", "echo", "true", "sleep", "ip", "ifconfig", "udhcpc", "ping",
    "reboot", "poweroff", "halt", "mount", "umount", "login", "getty", "hostname",
    "grep", "id", "mkdir", "rm", "touch", "head", "tail", "wc", "df", "free", "nproc", "stat",
    "kill", "chmod", "passwd", "timeout", "ps", "sync", "dd", "tty", "wget", "nc", "printf",
    "test", "env", "date",
)  # fmt: skip

FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\n",
    "etc/hostname": "busybox\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/fstab": "",
    "etc/inittab": (
        "::sysinit:/etc/init.d/rcS\n"
        # no getty: it flushes its terminal, and with it what the host has not read yet
        "console::respawn:-/bin/sh\n"
        "::ctrlaltdel:/sbin/reboot\n"
        "::shutdown:/bin/true\n"
    ),
    # this busybox has no chpasswd
    "usr/bin/chpasswd": (
        "#!/bin/sh\n"
        "IFS=: read -r user password\n"
        'printf "%s\\n%s\\n" "$password" "$password" | passwd "$user"\n'
    ),
    "etc/init.d/rcS": (
        "#!/bin/sh\n"
        "echo busybox guest is up > /dev/console\n"
        "for nic in /sys/class/net/eth*; do\n"
        "  [ -e $nic ] && ip link set ${nic##*/} up\n"
        "done\n"
        "exit 0\n"
    ),
}
DIRECTORIES = ("bin", "sbin", "etc/init.d", "proc", "sys", "dev", "tmp", "run", "root", "mnt",
               "var/lib", "usr/bin")  # fmt: skip


def available() -> bool:
    """Tell whether the host has a busybox that needs no libraries."""
    return pathlib.Path("/bin/busybox").exists()


def rootfs() -> bytes:
    """Return the root file system as a plain tar archive."""
    return _tar("")


def unified() -> bytes:
    """Return an LXD unified image."""
    return _tar("rootfs/")


def squashfs(work: pathlib.Path) -> bytes:
    """Return the root file system as squashfs, made by mksquashfs."""
    tree = work / "tree"
    with tarfile.open(fileobj=io.BytesIO(rootfs())) as archive:
        archive.extractall(tree, filter="fully_trusted")
    target = work / "rootfs.squashfs"
    subprocess.run(
        ["mksquashfs", tree, target, "-quiet", "-no-progress"], check=True, capture_output=True
    )
    return target.read_bytes()


def _tar(prefix: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        if prefix:
            metadata = {
                "architecture": "x86_64",
                "creation_date": 1,
                "properties": {"description": "busybox"},
            }
            _add(archive, "metadata.yaml", json.dumps(metadata).encode(), 0o644)
        for name in ("", *DIRECTORIES):
            member = tarfile.TarInfo(prefix + name)
            member.type = tarfile.DIRTYPE
            member.mode = 0o1777 if name == "tmp" else 0o755
            if member.name:
                archive.addfile(member)
        _add(archive, prefix + "bin/busybox", pathlib.Path("/bin/busybox").read_bytes(), 0o755)
        for applet in APPLETS:
            _link(archive, f"{prefix}bin/{applet}", "/bin/busybox")
        for applet in ("init", "reboot", "poweroff", "halt", "getty", "ip"):
            _link(archive, f"{prefix}sbin/{applet}", "/bin/busybox")
        for name, content in FILES.items():
            mode = (
                0o755
                if "init.d" in name or "bin/" in name
                else 0o600
                if "shadow" in name
                else 0o644
            )
            _add(archive, prefix + name, content.encode(), mode)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = mode
    archive.addfile(member, io.BytesIO(content))


def _link(archive: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    archive.addfile(member)
