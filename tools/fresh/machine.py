# SPDX-License-Identifier: Apache-2.0
"""A minimal Debian in namespaces of its own: mounts, processes, control groups, host name.

It shares nothing with the machine it runs on but the kernel, and reaches the world through it.
Its first process is systemd, or one that only reaps; when that is killed, all of it is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloud import outbound

# Its network: the machine below is the gateway.
SUBNET, GATEWAY, ADDRESS = "10.213.79.0/30", "10.213.79.1", "10.213.79.2"
LINK = "nlx-newcomer"
PACKAGES = ("git", "python3")
SYSTEMD_PACKAGES = ("systemd-sysv", "dbus")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun", "loop-control",
           "kvm", *(f"loop{number}" for number in range(16)))
# What would set up the machine below us a second time.
MASKED = ("systemd-sysctl.service", "systemd-modules-load.service", "systemd-remount-fs.service",
          "systemd-udevd.service", "systemd-networkd.service", "console-getty.service",
          "getty@.service", "apt-daily.timer", "apt-daily-upgrade.timer")
# How apt and pip reach their mirrors is this machine's business; a newcomer's has it, too.
COPIED = ("/etc/apt/sources.list", "/etc/apt/sources.list.d", "/etc/apt/apt.conf.d",
          "/etc/apt/auth.conf.d", "/etc/apt/keyrings", "/etc/pip.conf", "/etc/resolv.conf",
          "/etc/ssl/certs/ca-certificates.crt", "/usr/local/share/ca-certificates")
KEPT_VARIABLES = ("PIP_", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY",
                  "HTTPS_PROXY", "NO_PROXY")
REAPER = "import os, time\nwhile True:\n try: os.wait()\n except ChildProcessError: time.sleep(.2)"


class MachineError(Exception):
    """The machine could not be made; the message says what to do."""


def build(archive: Path, init: str) -> None:
    """Make the archive of a minimal Debian with git and Python."""
    names = PACKAGES + (SYSTEMD_PACKAGES if init == "systemd" else ())
    partial = archive.with_name(f"partial-{archive.name}")
    subprocess.run(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--components=main",
         f"--include={','.join(names)}", '--aptopt=Apt::Install-Recommends "false"',
         "bookworm", partial, "/etc/apt/sources.list"
         if Path("/etc/apt/sources.list").is_file() else "/etc/apt/sources.list.d/debian.sources"],
        check=True)
    partial.rename(archive)


def unpack(archive: Path, root: Path) -> None:
    """The root directory, with this machine's configuration of apt and pip."""
    root.mkdir(parents=True)
    subprocess.run(["tar", "-C", root, "--numeric-owner", "--xattrs", "-xf", archive], check=True)
    for rival in (root / "etc/apt").glob("sources.list*"):  # mmdebstrap's own
        shutil.rmtree(rival) if rival.is_dir() else rival.unlink()
    for name in COPIED:
        source, target = Path(name), root / name[1:]
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, symlinks=False)
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
    (root / "etc/hostname").write_text("newcomer\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost newcomer\n")
    (root / "etc/machine-id").write_text("")
    for unit in MASKED:
        link = root / "etc/systemd/system" / unit
        if link.parent.is_dir():
            link.unlink(missing_ok=True)
            link.symlink_to("/dev/null")


def package_directories() -> list[Path]:
    """The local directories that pip is configured to take packages from."""
    said = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False)
    words = said.stdout.replace("'", " ").replace("=", " ").split()
    paths = [Path(word.removeprefix("file://")) for word in words
             if word.startswith(("/", "file://"))]
    # An index refers to files beside it.
    there = [path.parent if path.name == "simple" else path for path in paths if path.is_dir()]
    return list(dict.fromkeys(there))


@dataclass
class Hierarchy:
    """One control group file system of this machine."""

    point: Path
    kind: str
    options: str

    @classmethod
    def all(cls) -> list[Hierarchy]:
        """All of them, the outer ones first."""
        found = []
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            if kind in ("cgroup", "cgroup2"):
                found.append(cls(Path(before.split()[4]), kind, options.removeprefix("rw,")))
        return found

    def mount_line(self, base: str) -> str:
        """The shell command that mounts it below ``base``, as far as our group may see."""
        options = "" if self.kind == "cgroup2" else f"-o {self.options} "
        place = f"{base}{self.point}"
        return f"mkdir -p {place}; mount -t {self.kind} {options}none {place}"


@dataclass
class Machine:
    """A running one; ``pid`` is its first process as this machine counts."""

    root: Path
    init: str
    name: str
    binds: Sequence[Path] = ()
    pid: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def enter(self, *command: str) -> list[str]:
        """The words that run ``command`` inside."""
        variables = {"HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8",
                     "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                     **self.environment}
        # A process that enters a namespace of control groups stays in its group outside of it.
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in self.login_groups())
        return ["sh", "-ec", join + 'exec "$@"', "sh",
                "nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--cgroup",
                "--uts", "--ipc", "--wdns=/root", "env", "-i",
                *(f"{name}={text}" for name, text in variables.items()), *command]

    def login_groups(self) -> list[Path]:
        """The control groups of those who enter: not the first process's, which may be divided."""
        groups = [hierarchy.point / self.name for hierarchy in Hierarchy.all()]
        if self.init == "systemd":
            groups = [group / "login.scope" for group in groups]
        for group in groups:
            group.mkdir(exist_ok=True)
            inherit_cpus(group)
        return groups

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; returns its output.

        CalledProcessError when it fails; unchecked, what it complains of is of no interest.
        """
        done = subprocess.run(self.enter(*command), stdout=subprocess.PIPE, text=True, check=check,
                              stdin=subprocess.DEVNULL,
                              stderr=None if check else subprocess.DEVNULL)
        return done.stdout

    def processes(self) -> list[str]:
        """The command lines of all its processes but the first, and but ours."""
        listing = ("for p in /proc/[0-9]*; do [ -e $p/exe ] && [ ${p#/proc/} != 1 ] && "
                   "[ ${p#/proc/} != $$ ] && tr '\\0' ' ' <$p/cmdline && echo; done; true")
        return [line for line in self.run("sh", "-c", listing).splitlines() if line.strip()]

    def setup_script(self) -> str:
        """What the first process does before it becomes init: mounts, and the new root."""
        root = str(self.root)
        lines = [
            "set -e", f"until ip link show {LINK} >/dev/null 2>&1; do sleep 0.1; done",
            "ip link set lo up", f"ip link set {LINK} name eth0", "ip link set eth0 up",
            f"ip address add {ADDRESS}/30 dev eth0", f"ip route add default via {GATEWAY}",
            "mount --make-rprivate /", f"mount --bind {root} {root}",
            f"mount -t proc proc {root}/proc", f"mount -t sysfs sysfs {root}/sys",
            f"mount -t tmpfs -o mode=755 tmpfs {root}/dev",
            f"mount -t tmpfs -o mode=755 tmpfs {root}/run",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
            f"mkdir {root}/dev/pts {root}/dev/shm {root}/dev/net",
            f"mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts {root}/dev/pts",
            f"ln -s pts/ptmx {root}/dev/ptmx; ln -s /proc/self/fd {root}/dev/fd",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/dev/shm",
        ]
        for device in DEVICES:
            if Path("/dev", device).exists():
                lines.append(f"cp -a /dev/{device} {root}/dev/{device}")
        hierarchies = Hierarchy.all()
        if hierarchies[0].point != Path("/sys/fs/cgroup"):
            lines.append(f"mount -t tmpfs -o mode=755 tmpfs {root}/sys/fs/cgroup")
        lines += [hierarchy.mount_line(root) for hierarchy in hierarchies]
        for path in self.binds:
            lines.append(f"mkdir -p {root}{path}; mount --bind -o ro {path} {root}{path}")
        init = "/sbin/init" if self.init == "systemd" else f"python3 -c '{REAPER}'"
        lines += [
            f"hostname {self.name}", f"cd {root}; mkdir -p .old", "pivot_root . .old",
            "cd /; umount -l /.old; rmdir /.old", f"container=lxc exec {init}",
        ]
        return "\n".join(lines)


@contextmanager
def control_groups(name: str) -> Iterator[list[Path]]:
    """A group of this name in every hierarchy; removed, with those inside, at the end."""
    groups = [hierarchy.point / name for hierarchy in Hierarchy.all()]
    with ExitStack() as undo:
        for group in groups:
            group.mkdir()
            undo.callback(remove_group, group)
            inherit_cpus(group)
        yield groups


def inherit_cpus(group: Path) -> None:
    """A new group of version 1 has no processors and no memory nodes: give it its parent's."""
    for setting in ("cpuset.cpus", "cpuset.mems"):
        if (group / setting).exists() and not (group / setting).read_text().strip():
            (group / setting).write_text((group.parent / setting).read_text())


def remove_group(group: Path, seconds: float = 20) -> None:
    """Remove a control group and those in it, once their processes have gone."""
    deadline = time.monotonic() + seconds
    while group.exists():
        for path, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # still busy: the next round, until the deadline
                os.rmdir(path)
        if time.monotonic() > deadline:
            raise MachineError(f"the control group {group} cannot be removed: it is in use")
        time.sleep(0.1)


@contextmanager
def booted(machine: Machine, log: Path) -> Iterator[Machine]:
    """Run the machine; at the end it is killed."""
    with ExitStack() as undo:
        groups = undo.enter_context(control_groups(machine.name))
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        stream = undo.enter_context(log.open("ab"))
        starter = subprocess.Popen(
            ["sh", "-ec", join + 'exec unshare --mount --pid --net --cgroup --uts --ipc --fork '
             '--kill-child sh -c "$1"', "sh", machine.setup_script()],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True)
        undo.callback(starter.wait)
        undo.callback(os.killpg, starter.pid, signal.SIGKILL)
        machine.pid = wait_for_child(starter, log)
        undo.enter_context(wired(machine))
        wait_for_init(machine, log)
        yield machine


@contextmanager
def wired(machine: Machine) -> Iterator[None]:
    """Give the machine a network interface, and translate its address where it goes out."""
    table = "nova-lxd-newcomer"
    with ExitStack() as undo:
        call("ip", "link", "add", f"{LINK}-0", "type", "veth", "peer", "name", LINK, "netns",
             str(machine.pid))
        undo.callback(subprocess.run, ["ip", "link", "delete", f"{LINK}-0"], check=False,
                      stderr=subprocess.DEVNULL)  # it went with the machine
        call("ip", "address", "add", f"{GATEWAY}/30", "dev", f"{LINK}-0")
        call("ip", "link", "set", f"{LINK}-0", "up")
        uplinks = outbound.uplinks()
        closed = [name for name in uplinks
                  if outbound.forwarding(name).read_text().strip() == "0"]
        rules = outbound.rules(table, SUBNET, closed, f'"{LINK}-0"')
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        undo.callback(call, "nft", "delete", "table", "ip", table)
        outbound.forwarding(f"{LINK}-0").write_text("1")
        for name in closed:
            outbound.forwarding(name).write_text("1")
            undo.callback(outbound.forwarding(name).write_text, "0")
        yield


def call(*argv: str) -> None:
    subprocess.run(argv, check=True)


def wait_for_child(starter: subprocess.Popen[bytes], log: Path, seconds: float = 15) -> int:
    """The process id of the new machine's first process."""
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and starter.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.05)
    raise MachineError(f"the machine did not start; see {log}")


def wait_for_init(machine: Machine, log: Path, seconds: float = 600) -> None:
    """Wait until the new root is in place and, with systemd, the boot has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not Path(f"/proc/{machine.pid}").exists():
            raise MachineError(f"the machine's first process has ended; see {log}")
        if machine.init != "systemd":
            if Path(f"/proc/{machine.pid}/cmdline").read_bytes().startswith(b"python3"):
                return
        elif Path(f"/proc/{machine.pid}/comm").read_text().strip() == "systemd":
            said = machine.run("systemctl", "is-system-running", check=False).strip()
            if said in ("running", "degraded"):
                return
        time.sleep(0.3)
    raise MachineError(f"the machine has not booted after {seconds:.0f} s; see {log}")


def kept_environment() -> dict[str, str]:
    """The variables of this process that say how pip reaches its index."""
    return {name: text for name, text in os.environ.items() if name.startswith(KEPT_VARIABLES)}
