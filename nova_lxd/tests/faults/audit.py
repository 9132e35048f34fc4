# SPDX-License-Identifier: Apache-2.0
"""The auditor: what the database says against what the host has, kind by kind."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nova_lxd.lxd.paths import Paths
from nova_lxd.tests.faults.follower import Follower
from nova_lxd.tests.faults.guests import Guest
from nova_lxd.tests.faults.injectors import POOL, processes
from nova_lxd.tests.faults.worker import FILE, PLAIN
from nova_lxd.tests.functional.daemon import Daemon

_QUIET_SECONDS = 60.0
# A daemon that just came up may start what should run.
_SETTLE_SECONDS = 10.0
# LXD keeps these at the top of every pool.
_KINDS = ("containers", "containers-snapshots", "custom", "custom-snapshots", "images")


def _nspid(status: str) -> int:
    """A process's pid in the innermost of its namespaces, from /proc/PID/status."""
    (line,) = [each for each in status.splitlines() if each.startswith("NSpid:")]
    return int(line.split()[-1])


class Audit:
    """One look at everything; ``findings`` are sentences, empty when all agrees."""

    def __init__(self, daemon: Daemon, guests: Iterable[Guest], follower: Follower) -> None:
        self._daemon = daemon
        self._follower = follower
        self._paths = Paths(daemon.lxd_dir)
        self._guests = list(guests)
        self.findings: list[str] = []
        self._instances: dict[str, Any] = {}

    def run(self) -> list[str]:
        """Compare everything; what still starts or ends by itself is given time to settle."""
        self._operations()
        unsettled = self.findings
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            self.findings = []
            self._host()
            if not self.findings or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        self.findings += unsettled
        self._acknowledged()
        return self.findings

    def _host(self) -> None:
        self._instances = {
            each["name"]: each for each in self._daemon.get("/1.0/instances?recursion=2")
        }
        self._events()
        self._database()
        self._pool()
        self._plain_pool()
        self._addresses()
        self._files()
        self._processes()
        self._links()
        self._guests_own()
        self._mounts()
        self._cgroups()
        self._loops()

    def _same(self, what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
        have, want = sorted(found), sorted(wanted)
        if have != want:
            extra = [each for each in have if have.count(each) > want.count(each)]
            missing = [each for each in want if want.count(each) > have.count(each)]
            self.findings.append(f"{what}: left over {extra}, missing {missing}")

    @property
    def _running(self) -> list[str]:
        return [n for n, each in self._instances.items() if each["status"] == "Running"]

    @property
    def _snapshots(self) -> list[str]:
        return [
            f"{name}/{snapshot['name']}"
            for name, each in self._instances.items()
            for snapshot in each["snapshots"] or ()
        ]

    def _snapshots_on(self, pool: str) -> list[str]:
        names = self._on(pool)
        return [each for each in self._snapshots if each.split("/")[0] in names]

    def _on(self, pool: str) -> list[str]:
        """The instances whose root is on a pool."""
        return [
            name
            for name, each in self._instances.items()
            if each["expanded_devices"]["root"]["pool"] == pool
        ]

    # API

    def _events(self) -> None:
        """Who goes by the events alone knows what there is."""
        told = {name: each["status"] for name, each in self._instances.items()}
        if self._follower.states != told:
            self.findings.append(f"by the events it is {self._follower.states}, but it is {told}")

    def _operations(self) -> None:
        deadline = time.monotonic() + _QUIET_SECONDS
        while left := self._daemon.get("/1.0/operations?recursion=1").get("running"):
            if time.monotonic() > deadline:
                told = [f"{each['description']} {each['resources']}" for each in left]
                self.findings.append(f"operations still running: {told}")
                return
            time.sleep(0.1)

    def _acknowledged(self) -> None:
        for guest in self._guests:
            there = self._instances.get(guest.name)
            if guest.exists is not None and guest.exists != (there is not None):
                self.findings.append(
                    f"{guest.name}: exists is {there is not None}, acknowledged {guest.exists}"
                )
            if there is None:
                guest.gone()
                continue
            if guest.exists is None:
                guest.exists, guest.deleting = True, False
            running = there["status"] == "Running"
            if guest.running is not None and guest.running != running:
                self.findings.append(
                    f"{guest.name}: status is {there['status']}, "
                    f"acknowledged running={guest.running}"
                )
            guest.running = running
            self._acknowledged_snapshots(guest, there)
            self._acknowledged_file(guest)

    def _acknowledged_snapshots(self, guest: Guest, there: dict[str, Any]) -> None:
        found = {each["name"] for each in there["snapshots"] or ()}
        for name, known in guest.snapshots.items():
            if known and name not in found:
                self.findings.append(f"{guest.name}: acknowledged snapshot {name} is lost")
        for name in found - set(guest.snapshots):
            self.findings.append(f"{guest.name}: deleted snapshot {name} is back")
        guest.snapshots = {name: True for name in found}
        for name in found:
            guest.snapshot_files.setdefault(name, None)

    def _acknowledged_file(self, guest: Guest) -> None:
        answer = self._daemon.api("GET", f"/1.0/instances/{guest.name}/files?path={FILE}")
        if answer.status not in (200, 404):
            self.findings.append(f"{guest.name}: reading {FILE} failed: {answer.body!r}")
            return
        content = answer.body if answer.status == 200 else b""
        if guest.file is not None and content not in guest.file:
            self.findings.append(
                f"{guest.name}: {FILE} holds {content!r}, acknowledged {guest.file!r}"
            )
        guest.file = {content}

    # Host

    def _database(self) -> None:
        with sqlite3.connect(f"file:{self._paths.database}?mode=ro", uri=True) as db:
            (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                self.findings.append(f"database: {verdict}")
            self._same(
                "instances in the database",
                (name for (name,) in db.execute("SELECT name FROM instances")),
                self._instances,
            )
            for table in ("instances", "snapshots", "storage_volumes"):
                for name, intent in db.execute(
                    f"SELECT name, intent FROM {table} WHERE intent != ''"
                ):
                    self.findings.append(f"{table}: {name} still has intent {intent!r}")
        db.close()

    def _pool(self) -> None:
        pool = str(self._paths.pool(POOL))
        listed = self._daemon.inside("btrfs", "subvolume", "list", pool).stdout
        found = [line.rpartition(" path ")[2] for line in listed.splitlines()]
        wanted = [f"containers/{name}" for name in self._on(POOL)]
        wanted += [f"containers-snapshots/{name}" for name in self._snapshots_on(POOL)]
        wanted += [f"custom/default_{name}" for name in self._volumes()]
        images = [path for path in found if path.startswith("images/")]
        wanted += images
        self._same("subvolumes", found, wanted)
        if len(images) > len(self._daemon.get("/1.0/images")):
            self.findings.append(f"image volumes left over: {images}")
        entries = self._daemon.inside("ls", "-A1", str(self._paths.pool(POOL))).stdout.split()
        known = {*_KINDS, ".staging", ".nova-lxd-pool", "virtual-machines"}
        known |= {"virtual-machines-snapshots"}
        self._same("top of the pool", set(entries) - known, ())
        staging = self._paths.pool(POOL) / ".staging"
        left = self._daemon.inside("ls", "-A1", str(staging), check=False).stdout.split()
        self._same("staging of the pool", left, ())

    def _volumes(self) -> list[str]:
        found = self._daemon.get(f"/1.0/storage-pools/{POOL}/volumes/custom")
        return [url.rsplit("/", 1)[1] for url in found]

    def _plain_pool(self) -> None:
        top = self._paths.pool(PLAIN)
        found = [str(path.relative_to(top)) for path in top.glob("containers/*")]
        found += [str(path.relative_to(top)) for path in top.glob("containers-snapshots/*/*")]
        wanted = [f"containers/{name}" for name in self._on(PLAIN)]
        wanted += [f"containers-snapshots/{name}" for name in self._snapshots_on(PLAIN)]
        self._same("directories of the plain pool", found, wanted)
        self._same("staging of the plain pool", self._listed(top / ".staging"), ())

    def _files(self) -> None:
        names = list(self._instances)
        for directory, wanted in (
            (self._paths.containers, names),
            (self._paths.snapshots, {each.split("/")[0] for each in self._snapshots}),
        ):
            self._same(str(directory), self._listed(directory), wanted)
        devices = self._paths.devices
        unknown = {each for each in self._listed(devices) if each not in names}
        self._same(str(devices), unknown, ())
        nodes = [path for path in devices.glob("*/*") if path.parent.name not in self._running]
        self._same("device nodes", map(str, nodes), ())
        for directory in (self._paths.logs, self._paths.run):
            left = {each for each in self._listed(directory) if each not in names}
            self._same(str(directory), left, ())
        images = {each.split(".")[0] for each in self._listed(self._paths.images)}
        known = {each.rsplit("/", 1)[1] for each in self._daemon.get("/1.0/images")}
        self._same(str(self._paths.images), images, known)

    @staticmethod
    def _listed(directory: Path) -> list[str]:
        return os.listdir(directory) if directory.is_dir() else []

    def _processes(self) -> None:
        lines = [line for _pid, line in processes(self._daemon)]
        inits = {str(each["state"]["pid"]) for each in self._instances.values()} - {"0", "-1"}
        if len(inits) != len(self._running):
            self.findings.append(f"{len(self._running)} running, {len(inits)} init processes")
        payload = self._payload_processes()
        self._same("containers with processes", payload, self._running)
        servers = [line for line in lines if line.startswith("dnsmasq ")]
        bridges = [
            each["name"] for each in self._daemon.get("/1.0/networks?recursion=1")
            if each["managed"]
        ]
        if len(servers) != len(bridges):
            self.findings.append(f"{len(servers)} dnsmasq for {len(bridges)} bridges")
        # The helper and its worker that waits for the next request.
        for word, limit in (("liblxc.zygote", 2), ("nova_lxd.lxd.cli daemon", 1)):
            count = sum(word in line for line in lines)
            if count > limit:
                self.findings.append(f"{count} processes of {word}")
        monitors = [line.split()[-1] for line in lines if line.startswith("[lxc monitor]")]
        # A running guest may have lost its monitor; none may be left of one that does not run.
        for name in monitors:
            if name not in self._running or monitors.count(name) > 1:
                self.findings.append(f"monitor of {name}, which does not run or has two")

    def _payload_processes(self) -> set[str]:
        found = set()
        for top in self._daemon.sandbox.cgroups:
            for procs in top.glob(f"{self._paths.cgroup}/**/cgroup.procs"):
                for part in procs.parts:
                    if part.startswith("lxc.payload.") and procs.read_text().strip():
                        found.add(part.removeprefix("lxc.payload."))
        return found

    def _cgroups(self) -> None:
        found = set()
        for top in self._daemon.sandbox.cgroups:
            for group in top.glob(f"{self._paths.cgroup}/lxc.*"):
                kind, _dot, name = group.name.removeprefix("lxc.").partition(".")
                if kind == "pivot":  # liblxc leaves the group to which it moves itself
                    continue
                found.add(name)
                if name not in self._running:
                    inside = (group / "cgroup.procs").read_text().split()
                    self.findings.append(f"cgroup {group} is left, with processes {inside}")
        self._same("containers with cgroups", found, self._running)

    def _links(self) -> None:
        links = json.loads(self._daemon.inside("ip", "-json", "link").stdout)
        veths = [each["ifname"] for each in links if each["ifname"].startswith(("veth", "vnic"))]
        nics = [nic for name in self._running for nic in self._devices(name, "nic")]
        if len(veths) != len(nics):
            self.findings.append(f"{len(veths)} veths for {len(nics)} nics: {veths}")

    def _devices(self, name: str, kind: str) -> dict[str, dict[str, str]]:
        """The devices of one type that an instance has by its configuration."""
        devices: dict[str, dict[str, str]] = self._instances[name]["expanded_devices"]
        return {key: device for key, device in devices.items() if device["type"] == kind}

    def _guests_own(self) -> None:
        """A running guest has the disks and limits that its configuration says, and no other."""
        for name in self._running:
            pid = self._outer_pid(name)
            if not pid:
                continue
            disks = self._devices(name, "disk").values()
            wanted = [disk["path"] for disk in disks if disk["path"] != "/"]
            lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
            found = [line.split()[4] for line in lines if line.split()[4].startswith("/mnt")]
            self._same(f"disks inside {name}", found, wanted)
            limit = self._instances[name]["expanded_config"].get("limits.processes", "max")
            tops = (top / self._paths.cgroup for top in self._daemon.sandbox.cgroups)
            files = [
                path for top in tops for path in top.glob(f"**/lxc.payload.{name}/pids.max")
            ]
            self._same(f"limits of {name}", {path.read_text().strip() for path in files}, {limit})

    def _outer_pid(self, name: str) -> int:
        """The pid, as seen from here, of an instance's init; 0 when it has just ended."""
        for top in self._daemon.sandbox.cgroups:
            for group in (top / self._paths.cgroup).glob(f"**/lxc.payload.{name}"):
                for pid in (group / "cgroup.procs").read_text().split():
                    status = Path(f"/proc/{pid}/status").read_text()
                    if _nspid(status) == 1:
                        return int(pid)
        return 0

    def _addresses(self) -> None:
        """A bridge has the address that its configuration has, and there is no other bridge."""
        links = json.loads(self._daemon.inside("ip", "-json", "-4", "address").stdout)
        have = {
            each["ifname"]: [f"{a['local']}/{a['prefixlen']}" for a in each["addr_info"]]
            for each in links
        }
        bridges = {
            each["name"]: each["config"]["ipv4.address"]
            for each in self._daemon.get("/1.0/networks?recursion=1")
            if each["managed"]
        }
        for name, address in bridges.items():
            if have.get(name) != [address]:
                self.findings.append(f"bridge {name} has {have.get(name)}, wanted {address}")
        listed = json.loads(self._daemon.inside("ip", "-json", "link", "show", "type", "bridge")
                            .stdout or "[]")
        self._same("bridges", (each["ifname"] for each in listed), bridges)
        kept = self._listed(self._paths.networks)
        self._same("directories of networks", kept, bridges)

    def _mounts(self) -> None:
        text = Path(f"/proc/{self._daemon.pid}/mountinfo").read_text()
        places = [line.split()[4] for line in text.splitlines()]
        run = f"{self._paths.run}/"
        owners = {place[len(run) :].split("/")[0] for place in places if place.startswith(run)}
        self._same("mounts of instances that do not run", owners - set(self._running), ())
        doubled = {each for each in places if each.startswith(run) and places.count(each) > 1}
        self._same("mounts on top of each other", doubled, ())
        pool = str(self._paths.pool(POOL))
        if places.count(pool) != 1:
            self.findings.append(f"the pool is mounted {places.count(pool)} times")

    def _loops(self) -> None:
        listed = json.loads(self._daemon.inside("losetup", "--list", "--json").stdout or "{}")
        root = f"{self._paths.root}/"
        files = [
            each["back-file"]
            for each in listed.get("loopdevices", ())
            if str(each["back-file"]).startswith(root)
        ]
        if len(files) != 1:
            self.findings.append(f"loop devices: {files}")
