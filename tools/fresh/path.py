# SPDX-License-Identifier: Apache-2.0
"""From nothing to a running server and back, as README.md says, each step checked and timed.

On a minimal Debian with git and Python alone: clone, ``./quickstart up``, ``status``, a second
compute host (``add-host``), ``up`` again, ``down``, an ``up`` that is killed half-way and one that
goes on, ``destroy``, and a look at what is left.  With ``--init systemd`` the services are units;
one of them is killed, too, and then the machine itself: it boots again, and with it the cloud.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fresh import machine
from fresh.machine import Machine, MachineError

REPOSITORY = Path(__file__).resolve().parents[2]
CLONE = "/root/nova-lxd"
STATE = "/var/lib/nova-lxd-cloud"
UNITS = "nova-lxd-cloud-*"
BOOT_UNIT = "nova-lxd-cloud-boot.service"
BOOT_LOG = f"{STATE}/log/boot.log"
KILLED = "glance"
KILL_AFTER = 12.0
AGAIN_SECONDS = 90
UP_SECONDS = 3600


class Failure(Exception):
    """A step did not do what README.md says."""


class Walk:
    """One walk."""

    def __init__(self, here: Machine, transcript: Path) -> None:
        self.machine = here
        self.transcript = transcript
        self.passed = 0
        self.failed: list[str] = []

    # saying

    def step(self, name: str, do: Callable[[], str | None]) -> bool:
        """Do one step; a failure is told, and the walk goes on."""
        begun = time.monotonic()
        try:
            said = do() or ""
        except (Failure, MachineError, subprocess.SubprocessError) as error:
            self.failed.append(name)
            print(f"FAIL {name} ({time.monotonic() - begun:.0f} s): {error}", flush=True)
            self.keep_logs(name)
            return False
        self.passed += 1
        print(f"ok   {name} ({time.monotonic() - begun:.0f} s) {said}", flush=True)
        return True

    def keep_logs(self, name: str) -> None:
        """Copy the cloud's logs, which a later step may remove, to beside the transcript."""
        logs = self.machine.root / STATE.lstrip("/") / "log"
        kept = self.transcript.with_name("logs of " + re.sub(r"\W+", "-", name))
        if logs.exists():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(logs, kept)
            print(f"     logs: {kept}", flush=True)

    def type(self, line: str, check: bool = True, seconds: float = UP_SECONDS) -> str:
        """What a newcomer types in the clone; what is printed goes to the transcript as well."""
        with self.transcript.open("a") as stream:
            stream.write(f"# {line}\n")
            stream.flush()
            done = subprocess.run(
                self.machine.enter("sh", "-c", f"cd {CLONE} && {line}"), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                check=False, timeout=seconds)
            stream.write(done.stdout + "\n")
        if check and done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-25:])
            raise Failure(f"'{line}' ended with status {done.returncode}:\n{tail}")
        return done.stdout

    # steps

    def clone(self, source: str) -> None:
        self.machine.run("git", "-c", "safe.directory=*", "clone", "--quiet", source, CLONE)

    def up(self) -> str:
        said = self.type("./quickstart up")
        for wanted in (": ACTIVE (", "floating IP ", "console log:\n  | ", "Linux ", "next:"):
            if wanted not in said:
                raise Failure(f"'up' did not print {wanted!r}")
        took = re.search(r"the cloud is up, in (\d+) s", said)
        return f"the cloud itself in {took[1]} s" if took else ""

    def up_again(self) -> str:
        begun = time.monotonic()
        said = self.type("./quickstart up")
        if (took := time.monotonic() - begun) > AGAIN_SECONDS:
            raise Failure(f"'up' of a cloud that runs took {took:.0f} s")
        if started := re.findall(r"ok +start (\S+)", said):
            raise Failure(f"it started services that ran: {', '.join(started)}")
        for wanted in (": ACTIVE (", "Linux "):  # the server answers
            if wanted not in said:
                raise Failure(f"'up' did not print {wanted!r}")
        return ""

    def status(self) -> str:
        said = self.type("./quickstart status").splitlines()[1:]
        return f"{len(said)} services"

    def type_openstack(self) -> None:
        said = self.type('eval "$(./quickstart env)" && openstack server list -f value')
        if "hello ACTIVE" not in said:
            raise Failure(f"the openstack command shows no server: {said}")

    def second_host(self) -> str:
        """A compute host is added, and the administrator makes a server there."""
        self.type("./quickstart add-host two")
        return self.server_on("two", "there")

    def server_on(self, host: str, name: str) -> str:
        said = self.type('eval "$(./quickstart env admin)" && '
                         "openstack --os-compute-api-version 2.74 server create --wait "
                         f"--host {host} --image busybox --flavor c1.tiny --no-network "
                         f"-f value -c status -c OS-EXT-SRV-ATTR:host {name}")
        if said.split() != [host, "ACTIVE"]:
            raise Failure(f"no server became ACTIVE on {host}: {said}")
        return f"{name} runs on {host}"

    def interrupted_up(self) -> str:
        """``up`` is killed, as by a closed terminal or the out-of-memory killer."""
        self.type("./quickstart down")
        process = subprocess.Popen(
            self.machine.enter("sh", "-c", f"cd {CLONE} && echo $$ >/tmp/up.pid && "
                               "exec ./quickstart up"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(KILL_AFTER)
        if process.poll() is not None:
            raise Failure("'up' had ended before it could be killed")
        self.machine.run("sh", "-c", "kill -9 $(cat /tmp/up.pid)")
        process.wait(timeout=30)
        return self.up()

    def forget_boot(self) -> None:
        """What an earlier boot has logged must not be taken for that of the next."""
        self.machine.run("rm", "-f", BOOT_LOG)

    def booted(self) -> str:
        """What systemd starts when the machine has booted has brought the cloud up."""
        self.machine.run("systemctl", "is-enabled", "--quiet", BOOT_UNIT)
        state = self.machine.run("systemctl", "show", "--value", "-p", "ActiveState", BOOT_UNIT)
        said = self.machine.run("cat", BOOT_LOG, check=False)
        took = re.search(r"the cloud is up, in (\d+) s", said)
        if state.strip() == "failed" or not took:
            raise Failure(f"{BOOT_UNIT} is {state.strip()}; its log says: {said}")
        return f"in {took[1]} s"

    def units(self) -> str:
        """Every service is a unit, and active."""
        listed = self.machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend",
                                  UNITS).splitlines()
        # It has done its work when the others run.
        listed = [line for line in listed if BOOT_UNIT not in line]
        asleep = [line for line in listed if line.split()[2] != "active"]
        if not listed or asleep:
            raise Failure(f"units that are not active: {asleep or 'all'}")
        return f"{len(listed)} units active"

    def killed_unit(self) -> str:
        """A service that is killed comes back by itself, and the cloud says so."""
        unit = f"nova-lxd-cloud-{KILLED}.service"
        before = self.machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).strip()
        self.machine.run("kill", "-9", before)
        deadline = time.monotonic() + 90
        while True:
            now = self.machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).strip()
            row = next((line.split() for line in self.type("./quickstart status", check=False)
                        .splitlines() if line.startswith(f"{KILLED} ")), ["", "gone"])
            if now not in ("0", before) and row[1] == "answers" and row[4] == "1":
                return f"{unit} was restarted"
            if time.monotonic() > deadline:
                raise Failure(f"{unit} did not come back: {row}")
            time.sleep(2)

    def network(self) -> dict[str, list[str]]:
        """The machine's interfaces with their addresses, but for those that the kernel chooses."""
        links = json.loads(subprocess.run(
            ["nsenter", f"--target={self.machine.pid}", "--net", "ip", "-json", "address"],
            check=True, text=True, capture_output=True).stdout)
        return {link["ifname"]: [a["local"] for a in link["addr_info"] if a["scope"] != "link"]
                for link in links}

    def network_is(self, before: dict[str, list[str]]) -> None:
        if (now := self.network()) != before:
            raise Failure(f"there was {before}, and now there is {now}")
        rules = subprocess.run(
            ["nsenter", f"--target={self.machine.pid}", "--net", "nft", "list", "tables"],
            check=True, text=True, capture_output=True).stdout
        forwarding = self.machine.run(
            "cat", "/proc/sys/net/ipv4/conf/eth0/forwarding").strip()
        if rules or forwarding != "0":
            raise Failure(f"nftables: {rules!r}, forwarding of eth0: {forwarding}")

    def destroy(self) -> None:
        self.type("./quickstart destroy")

    def nothing_left(self) -> None:
        left = []
        if "there" in self.machine.run("sh", "-c", f"test -e {STATE} && echo there; true"):
            left.append(STATE)
        if found := self.machine.run("sh", "-c", f"grep -F {STATE} /proc/mounts; true"):
            left.append(f"mounts: {found}")
        if found := self.machine.run("sh", "-c", "ls /run/netns 2>/dev/null; true").split():
            left.append(f"network namespaces: {found}")
        if self.machine.init == "systemd":
            found = self.machine.run("sh", "-c", f"ls -d /etc/systemd/system/{UNITS} "
                                     "/etc/systemd/system/*/nova-lxd-cloud-* 2>/dev/null; "
                                     f"systemctl list-units --all --plain --no-legend '{UNITS}'")
            left += [f"unit {line}" for line in found.splitlines()]
        else:
            left += [f"process {line}" for line in self.machine.processes()]
        if left:
            raise Failure("; ".join(left))


def walk(path: Walk, source: str, log: Path) -> None:
    """All steps; nothing after a first ``up`` that failed, except what removes the cloud."""
    systemd = path.machine.init == "systemd"
    with machine.booted(path.machine, log):
        before = path.network()
        is_up = path.step("git clone", lambda: path.clone(source)) and path.step("up", path.up)
        if is_up:
            path.step("status", path.status)
            path.step("openstack server list", path.type_openstack)
            path.step("add-host", path.second_host)
        if is_up and systemd:
            path.step("systemctl: every service is active", path.units)
            path.step("a killed service is restarted", path.killed_unit)
            path.forget_boot()
        else:
            finish(path, before, is_up)
    if is_up and systemd:  # the power was cut: nothing was told to end
        with machine.booted(path.machine, log):
            path.step("the machine's next boot brings the cloud up", path.booted)
            path.step("systemctl: every service is active again", path.units)
            path.step("the second host takes a server again",
                      lambda: path.server_on("two", "after"))
            finish(path, before, is_up)


def finish(path: Walk, before: dict[str, list[str]], is_up: bool) -> None:
    """The rest, to nothing left."""
    if is_up:
        path.step("up again", path.up_again)
        path.step("down, up killed half-way, up", path.interrupted_up)
        path.step("the second host takes a server", lambda: path.server_on("two", "last"))
    path.step("destroy", path.destroy)
    path.step("nothing of it is left in the machine", path.nothing_left)
    path.step("the network is as it was", lambda: path.network_is(before))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("tools/newcomer", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--init", choices=("none", "systemd"), default="none",
                     help="the machine's first process (default: none, so the supervisor runs)")
    top.add_argument("--work", type=Path, default=Path("/var/tmp/nova-lxd-newcomer"),
                     help="where the machine's root is (default: %(default)s)")
    top.add_argument("--bind", type=Path, action="append", default=[], metavar="DIR",
                     help="a directory of this machine that apt or pip read, shown there too; "
                     "those in pip's configuration are found by themselves")
    top.add_argument("--keep", action="store_true", help="keep root and transcript")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Walk; returns the exit code."""
    arguments = parser().parse_args(argv)
    # Ended by a time limit or a person, it takes its machine away with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    archive, root = work / f"debian-{arguments.init}.tar", work / "root"
    transcript = work / f"transcript-{arguments.init}.txt"
    try:
        if root.exists():
            shutil.rmtree(root)
        if not archive.exists():
            machine.build(archive, arguments.init)
        machine.unpack(archive, root)
        here = Machine(root, arguments.init, f"newcomer-{arguments.init}",
                       [*arguments.bind, *machine.package_directories(), REPOSITORY / ".git"],
                       environment=machine.kept_environment())
        transcript.write_text("")
        path = Walk(here, transcript)
        walk(path, f"file://{REPOSITORY}/.git", work / "machine.log")
    except (MachineError, subprocess.SubprocessError) as error:
        print(f"tools/newcomer: {error}", file=sys.stderr)
        return 1
    finally:
        if not arguments.keep and root.exists():
            shutil.rmtree(root)
    print(f"transcript: {transcript}")
    print(f"newcomer: {path.passed} passed, {len(path.failed)} failed")
    return 1 if path.failed else 0
