# SPDX-License-Identifier: Apache-2.0
"""Control groups: where a container's are, what they say and how they are set.

Hosts mount every controller by itself (cgroup v1), all of them in one tree (v2), or some of each
(hybrid).  A :class:`Setting` says one wish in both dialects; :class:`Layout` knows which one the
host speaks; :class:`Cgroup` is one running container's.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host import mounts
from nova_lxd.lxd.host.cgroup_settings import RARE, Setting

_FREEZE_TIMEOUT = 10.0
_FREEZE_STEP = 0.002
_READ = 1 << 16


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree of control groups: ``root`` is the group that is seen at ``mount``."""

    mount: Path
    root: str

    def path(self, group: str) -> Path:
        """The directory of a group that is named as in /proc/PID/cgroup."""
        inside = group.removeprefix(self.root.rstrip("/")) if self.root != "/" else group
        return self.mount / inside.lstrip("/")


@dataclass(frozen=True)
class Layout:
    """How this host mounts control groups."""

    v1: dict[str, Hierarchy] = field(default_factory=dict)
    unified: Hierarchy | None = None
    v2_controllers: frozenset[str] = frozenset()

    @classmethod
    def detect(cls) -> Layout:
        """Read it from this process's mounts."""
        v1: dict[str, Hierarchy] = {}
        unified = None
        for entry in mounts.mounts():
            tree = Hierarchy(Path(entry.target), entry.root)
            if entry.fstype == "cgroup2":
                unified = unified or tree
            elif entry.fstype == "cgroup":
                for option in set(entry.super_options.split(",")) - {"rw", "ro"}:
                    v1.setdefault(option.removeprefix("name="), tree)
        controllers: frozenset[str] = frozenset()
        if unified is not None:
            text = (unified.mount / "cgroup.controllers").read_text()
            controllers = frozenset(text.split())
        return cls(v1, unified, controllers)

    def version(self, controller: str) -> int:
        """1 or 2: which dialect the host speaks for a controller; 0 when it lacks it."""
        if controller in self.v1:
            return 1
        if controller in self.v2_controllers:
            return 2
        # Part of the core, or done with BPF programs, in v2.
        return 2 if controller in ("freezer", "devices") and self.unified is not None else 0

    def has_file(self, controller: str, name: str) -> bool:
        """Does this kernel offer a file that not all have (``memory.swap.max``, ``io.weight``)?

        In v2 a group tells; while none has the controller, what most kernels have counts.
        """
        if controller in self.v1:
            return (self.v1[controller].mount / name).exists()
        groups = self._groups_with(controller)
        return any((g / name).exists() for g in groups) if groups else name not in RARE

    def _groups_with(self, controller: str) -> list[Path]:
        """Groups below the root of v2 that have a controller; the root itself lacks its files."""
        if self.unified is None or controller not in self.v2_controllers:
            return []
        top = self.unified.mount
        below = [path for path in top.iterdir() if path.is_dir()]
        return [path for path in below if controller in _controllers(path)]

    def _writes(self, settings: Iterable[Setting]) -> Iterator[tuple[int, str, str, str]]:
        """(dialect, controller, file, value) for what the host supports."""
        for setting in settings:
            version = self.version(setting.controller)
            for name, value in setting.v1 if version == 1 else setting.v2 if version == 2 else ():
                if name not in setting.optional or self.has_file(setting.controller, name):
                    yield version, setting.controller, name, value

    def config_items(self, settings: Iterable[Setting]) -> list[tuple[str, str]]:
        """The settings as liblxc configuration for a start; unsupported ones are left out."""
        return [
            (f"lxc.cgroup{2 if version == 2 else ''}.{name}", value)
            for version, _, name, value in self._writes(settings)
        ]

    def directories(self, group: str) -> list[Path]:
        """The directories of one group in every tree, those that exist."""
        trees = {tree.mount: tree for tree in self.v1.values()}
        if self.unified is not None:
            trees[self.unified.mount] = self.unified
        found = (tree.mount / group.lstrip("/") for tree in trees.values())
        return [path for path in found if path.is_dir()]

    def leaf(self, group: str) -> Path | None:
        """Where liblxc puts what is executed in a container's group: v2 wants a group below it."""
        return self.unified.mount / group.lstrip("/") / ".lxc" if self.unified else None

    def processes(self, group: str) -> set[int]:
        """The processes in a group (``CGROUP-DIR/lxc.payload.NAME``) and below, in any tree.

        Before a start there must be none: a container whose monitor was killed lives on there.
        """
        return {pid for top in self.directories(group) for pid in _processes(top)}

    def remove(self, group: str) -> None:
        """Remove a group and those below it; those with processes stay, and their parents."""
        for top in self.directories(group):
            for directory, _, _ in os.walk(top, topdown=False):
                _remove_group(Path(directory))


def _controllers(group: Path) -> list[str]:
    """The v2 controllers that a group has; none once it is gone."""
    try:
        return (group / "cgroup.controllers").read_text().split()
    except FileNotFoundError:
        return []


@functools.cache
def layout() -> Layout:
    """The host's layout, found out once."""
    return Layout.detect()


def _remove_group(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
            raise


def _processes(top: Path) -> list[int]:
    pids: list[int] = []
    for directory, _, _ in os.walk(top):
        with contextlib.suppress(FileNotFoundError):
            pids += map(int, (Path(directory) / "cgroup.procs").read_text().split())
    return pids


def _pairs(text: str) -> dict[str, int]:
    """``name number`` lines."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


@dataclass(frozen=True)
class Memory:
    """Bytes; -1 where the kernel does not tell."""

    usage: int
    peak: int
    swap: int
    swap_peak: int


@dataclass(frozen=True)
class CpuTime:
    """Seconds of one processor; ``cpu`` is "" when the kernel tells only the sum."""

    cpu: str
    user: float
    system: float


@dataclass(frozen=True)
class DiskIo:
    """What was read and written on one block device ``MAJOR:MINOR``."""

    device: str
    read_bytes: int
    write_bytes: int
    reads: int
    writes: int


@dataclass(frozen=True)
class Cgroup:
    """The groups of one running container.  Reads raise FileNotFoundError once it has ended."""

    layout: Layout
    groups: dict[str, str]
    # The path of each file that was read, by what was asked for: states are read often.
    _paths: dict[tuple[str, str], str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, init: int, name: str) -> Cgroup:
        """The payload groups of the container ``name`` (liblxc's name) whose init is ``init``.

        :raises ProcessLookupError: it has ended.
        """
        try:
            text = Path(f"/proc/{init}/cgroup").read_text()
        except FileNotFoundError as exc:
            raise ProcessLookupError(f"process {init} has ended") from exc
        groups = {}
        for line in text.splitlines():
            _, controllers, path = line.split(":", 2)
            # Init may have moved itself into a group below (systemd's init.scope).
            top: list[str] = []
            for part in path.split("/"):
                top.append(part)
                if part.startswith(f"lxc.payload.{name}"):
                    break
            for controller in controllers.split(","):
                groups[controller.removeprefix("name=")] = "/".join(top) or "/"
        return cls(layout(), groups)

    def path(self, controller: str) -> Path:
        """The directory that rules a controller.

        :raises InternalError: the host lacks the controller.
        """
        tree = self.layout.v1.get(controller)
        if tree is not None:
            return tree.path(self.groups[controller])
        if self.layout.unified is None or self.layout.version(controller) == 0:
            raise InternalError(
                f"Reading the control group '{controller}' failed: the host does not have it"
            )
        return self.layout.unified.path(self.groups[""])

    def read(self, controller: str, v1: str, v2: str) -> str:
        """A file by its name in either dialect."""
        path = self._paths.get((controller, v1))
        if path is None:
            name = v1 if self.layout.version(controller) == 1 else v2
            path = self._paths[(controller, v1)] = str(self.path(controller) / name)
        return _read(path)

    def _number(self, controller: str, v1: str, v2: str) -> int:
        """A file's number; -1 when this kernel or host lacks it, the container being there."""
        if self.layout.version(controller) == 0:
            return -1
        try:
            return int(self.read(controller, v1, v2))
        except FileNotFoundError:
            if not self.path(controller).is_dir():
                raise
            return -1

    # -- what it says -------------------------------------------------------------------------

    def cpu_seconds(self) -> float:
        """Processor time used since the start."""
        if self.layout.version("cpuacct") == 1:
            return int(self.read("cpuacct", "cpuacct.usage", "")) / 1e9
        return _pairs((self._unified() / "cpu.stat").read_text())["usage_usec"] / 1e6

    def cpu_times(self) -> list[CpuTime]:
        """User and system time, by processor where the kernel tells."""
        if self.layout.version("cpuacct") == 1:
            lines = self.read("cpuacct", "cpuacct.usage_all", "").splitlines()[1:]
            rows = (line.split() for line in lines)
            return [CpuTime(cpu, int(user) / 1e9, int(system) / 1e9) for cpu, user, system in rows]
        stat = _pairs((self._unified() / "cpu.stat").read_text())
        return [CpuTime("", stat["user_usec"] / 1e6, stat["system_usec"] / 1e6)]

    def _unified(self) -> Path:
        if self.layout.unified is None:
            raise InternalError("Reading the processor time failed: the host has no cpuacct group")
        return self.layout.unified.path(self.groups[""])

    def memory(self) -> Memory:
        """Memory and swap in use and their peaks."""
        usage = self._number("memory", "memory.usage_in_bytes", "memory.current")
        peak = self._number("memory", "memory.max_usage_in_bytes", "memory.peak")
        swap = self._number("memory", "memory.memsw.usage_in_bytes", "memory.swap.current")
        swap_peak = self._number("memory", "memory.memsw.max_usage_in_bytes", "memory.swap.peak")
        if self.layout.version("memory") == 1:
            # Version 1 counts memory and swap together.
            swap = max(0, swap - usage) if swap >= 0 else -1
            swap_peak = max(0, swap_peak - peak) if swap_peak >= 0 else -1
        return Memory(usage, peak, swap, swap_peak)

    def memory_stat(self) -> dict[str, int]:
        """memory.stat, as the kernel names its lines."""
        return _pairs(self.read("memory", "memory.stat", "memory.stat"))

    def memory_limit(self) -> int:
        """The hard limit in bytes, -1 when there is none."""
        text = self.read("memory", "memory.limit_in_bytes", "memory.max")
        # Version 1 says "none" as the largest number of pages.
        return -1 if text == "max" or int(text) >= 1 << 62 else int(text)

    def oom_kills(self) -> int:
        """How many processes the kernel killed for want of memory."""
        return _pairs(self.read("memory", "memory.oom_control", "memory.events")).get(
            "oom_kill", 0
        )

    def tasks(self) -> int:
        """Processes and threads; -1 when the host does not count them."""
        return self._number("pids", "pids.current", "pids.current")

    def cpus(self) -> str:
        """The processors it may use, as a list like ``0-3,7``."""
        return self.read("cpuset", "cpuset.effective_cpus", "cpuset.cpus.effective")

    def processes(self) -> list[int]:
        """Every process of the container, also in groups it made for itself."""
        controller = "pids" if "pids" in self.layout.v1 else next(iter(self.layout.v1), "freezer")
        return _processes(self.path(controller))

    def disk_io(self) -> list[DiskIo]:
        """What it read and wrote, by block device."""
        if self.layout.version("blkio") == 1:
            top = self.path("blkio")
            size = _blkio(top / "blkio.throttle.io_service_bytes_recursive")
            count = _blkio(top / "blkio.throttle.io_serviced_recursive")
            none: dict[str, int] = {}
            return [
                DiskIo(
                    device,
                    number.get("Read", 0),
                    number.get("Write", 0),
                    count.get(device, none).get("Read", 0),
                    count.get(device, none).get("Write", 0),
                )
                for device, number in size.items()
            ]
        if self.layout.version("io") == 0:
            return []
        found = []
        for line in (self.path("io") / "io.stat").read_text().splitlines():
            device, *rest = line.split()
            number = {key: int(value) for key, _, value in (p.partition("=") for p in rest)}
            found.append(
                DiskIo(device, *(number.get(k, 0) for k in ("rbytes", "wbytes", "rios", "wios")))
            )
        return found

    # -- what is set --------------------------------------------------------------------------

    def apply(self, settings: Iterable[Setting]) -> None:
        """Set limits on the running container, in order; unsupported ones are left out.

        :raises OSError: the kernel refused a value (EBUSY: more memory is in use than the limit).
        """
        for _, controller, name, value in self.layout._writes(settings):
            path = self.path(controller) / name
            try:
                path.write_text(value)
            except OSError as exc:
                raise OSError(exc.errno, exc.strerror, str(path)) from exc

    @property
    def frozen(self) -> bool:
        """Is every process of it stopped by the freezer?"""
        if self.layout.version("freezer") == 1:
            return self.read("freezer", "freezer.state", "") == "FROZEN"
        return _pairs((self.path("freezer") / "cgroup.events").read_text()).get("frozen") == 1

    def freeze(self, timeout: float = _FREEZE_TIMEOUT) -> None:
        """Stop every process; returns when all stand still.

        :raises InternalError: some do not stop in time; all run on then.
        """
        self._write_freezer(True)
        deadline = time.monotonic() + timeout
        while not self.frozen:
            if time.monotonic() > deadline:
                self._write_freezer(False)
                raise InternalError(
                    f"Freezing {self.path('freezer')} failed: some of its processes do not stop "
                    f"within {timeout:g} s"
                )
            time.sleep(_FREEZE_STEP)

    def thaw(self) -> None:
        """Let every process run on; fine when it is not frozen."""
        self._write_freezer(False)

    def _write_freezer(self, frozen: bool) -> None:
        top = self.path("freezer")
        if self.layout.version("freezer") == 1:
            (top / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
        else:
            (top / "cgroup.freeze").write_text("1" if frozen else "0")


def _read(path: str) -> str:
    """A whole file; without the buffers and decoders that cost more than the kernel's part.

    :raises FileNotFoundError: the group is not there, or has gone while it was read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _READ):
            parts.append(part)
    except OSError as exc:
        if exc.errno != errno.ENODEV:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from exc
    finally:
        os.close(fd)
    return b"".join(parts).decode("ascii", "replace").strip()


def _blkio(path: Path) -> dict[str, dict[str, int]]:
    """A v1 statistic: device → operation → number."""
    found: dict[str, dict[str, int]] = {}
    for line in path.read_text().splitlines():
        fields = line.split()
        if len(fields) == 3:
            found.setdefault(fields[0], {})[fields[1]] = int(fields[2])
    return found


def thaw_process(pid: int) -> None:
    """Thaw the v1 freezer group of a process that was sent SIGKILL; else it would never die.

    Nothing to do on v2 (killing works on frozen groups) or when the process is gone.
    """
    tree = layout().v1.get("freezer")
    if tree is None:
        return
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if "freezer" not in controllers.split(","):
                continue
            # The freeze may stand in any group above it, up to the container's.
            path = tree.path(group)
            while path != tree.mount:
                if not _thaw(path):
                    return
                if path.name.startswith("lxc.payload."):
                    return
                path = path.parent


def _thaw(path: Path) -> bool:
    """Thaw one group of v1; False when it is gone already."""
    try:
        (path / "freezer.state").write_text("THAWED")
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise
    return True
