# SPDX-License-Identifier: Apache-2.0
"""Real containers of busybox, made with the host modules alone; each test must leave nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nova_lxd.lxd.host import cgroups, mounts
from nova_lxd.lxd.host.idmap import Idmap, default_map, host_range, userns_fd
from nova_lxd.lxd.host.liblxc import hooks
from nova_lxd.lxd.host.liblxc.client import Exec, Zygote
from nova_lxd.lxd.host.liblxc.running import Running

BUSYBOX = Path("/bin/busybox")
APPLETS = "sh init ls id tty sleep cat echo kill ps stat true stty mount ip mknod touch rm dd"
PATH = {"PATH": "/bin"}


def make_rootfs(top: Path) -> Path:
    """A root file system that boots busybox's init and sleeps."""
    for name in ("bin", "sbin", "dev", "proc", "sys", "tmp", "etc", "root", "run"):
        (top / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, top / "bin" / "busybox")
    for name in APPLETS.split():
        (top / "bin" / name).symlink_to("busybox")
    (top / "sbin" / "init").symlink_to("../bin/busybox")
    (top / "etc" / "inittab").write_text("::sysinit:/bin/true\n::respawn:/bin/sleep 100000\n")
    return top


def make_node(path: Path, device: int, owner: tuple[int, int], mode: int) -> tuple[str, str]:
    """Make a character device; returns the configuration that shows it inside as /dev/mine."""
    path.unlink(missing_ok=True)
    os.mknod(path, 0o020600, device)
    os.chown(path, *owner)
    path.chmod(mode)
    return "lxc.mount.entry", f"{path} dev/mine none bind,create=file 0 0"


@dataclass
class Lab:
    """A directory of containers and the helper process that runs them."""

    top: Path
    idmap: Idmap
    zygote: Zygote = field(default_factory=Zygote)
    running: dict[str, Running] = field(default_factory=dict)
    execs: list[Exec] = field(default_factory=list)

    @property
    def lxcpath(self) -> Path:
        return self.top / "run"

    @property
    def group(self) -> str:
        """``lxc.cgroup.dir`` of this lab's containers."""
        return "nova-lxd-" + self.top.name

    @property
    def root_ids(self) -> tuple[int, int]:
        """The host's ids of the containers' root."""
        uid, gid = self.idmap.host_uid(0), self.idmap.host_gid(0)
        assert uid is not None and gid is not None
        return uid, gid

    def tree(self, name: str) -> Path:
        """The container's files on disk, made when they are missing."""
        path = self.top / "trees" / name
        return path if path.exists() else make_rootfs(path)

    def mounted(self, name: str) -> Path:
        """Its root file system, mounted with its id map."""
        target = self.lxcpath / name / "rootfs"
        target.mkdir(parents=True, exist_ok=True)
        if mounts.find(target) is None:
            fd = userns_fd(self.idmap) if self.idmap else None
            mounts.bind(self.tree(name), target, userns_fd=fd)
        return target

    def items(self, name: str) -> list[tuple[str, str]]:
        """A whole configuration."""
        return [
            ("lxc.rootfs.path", f"dir:{self.mounted(name)}"),
            ("lxc.uts.name", name),
            *self.idmap.lxc_config(),
            ("lxc.mount.auto", "proc:rw sys:rw cgroup:mixed"),
            ("lxc.autodev", "1"),
            ("lxc.pty.max", "1024"),
            ("lxc.tty.max", "0"),
            ("lxc.console.buffer.size", "auto"),
            ("lxc.cgroup.dir", self.group),
            ("lxc.net.0.type", "empty"),
            *hooks.stop_hook_items(self.lxcpath / name),
        ]

    def start(self, name: str, *extra: tuple[str, str]) -> Running:
        """Start a container."""
        items = [*self.items(name), *extra]
        running = self.zygote.start(name, self.lxcpath, items, log=self.top / "lxc.log")
        self.running[name] = running
        return running

    def exec(self, name: str, *argv: str, uid: int = 0) -> tuple[int, str]:
        """Run a program to its end: (exit code, everything it printed)."""
        with open("/dev/null", "rb") as null, tempfile.TemporaryFile() as out:
            process = self.zygote.exec(
                name,
                self.lxcpath,
                argv,
                stdin=null.fileno(),
                stdout=out.fileno(),
                stderr=out.fileno(),
                env=PATH,
                uid=uid,
                gid=uid,
            )
            code = process.wait(20)
            out.seek(0)
            return code, out.read().decode()

    def close(self) -> None:
        """End everything."""
        for running in self.running.values():
            if running.pidfd >= 0:
                running.kill()
                running.close()
        self.zygote.close()
        mounts.unmount_all(self.lxcpath)
        cgroups.layout().remove(self.group)

    def leftovers(self) -> list[str]:
        """Processes, mounts and control groups that still carry this lab's name."""
        found = [m.target for m in mounts.mounts() if m.target.startswith(str(self.top))]
        found += [str(path) for path in cgroups.layout().directories(self.group)]
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                command = (proc / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(self.top) in command:
                found.append(f"{proc.name}: {command!r}")
        return found


def make_lab(idmap: Idmap) -> Iterator[Lab]:
    """A lab that is checked for leftovers at its end."""
    if os.geteuid() != 0 or not BUSYBOX.exists():
        pytest.skip("containers need root and busybox-static")
    top = Path(tempfile.mkdtemp(prefix="lab"))
    top.chmod(0o711)
    lab = Lab(top, idmap)
    try:
        yield lab
    finally:
        lab.close()
        left = lab.leftovers()
        shutil.rmtree(top)
    assert left == []


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Unprivileged containers."""
    yield from make_lab(default_map(host_range()))


@pytest.fixture
def privileged_lab() -> Iterator[Lab]:
    """Privileged containers."""
    yield from make_lab(Idmap())
