# SPDX-License-Identifier: Apache-2.0
"""Instances copied and moved between two servers, and what is left when that goes wrong."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.tests.functional.conftest import build_image, leftovers, remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import Sandbox, wait_for

PASSWORD = "sekrit"
PORTS = (8443, 8444)
POOLS = ("dir", "btrfs")


class Pair:
    """Two servers in one network, and a client that both of them trust."""

    def __init__(self, one: Daemon, two: Daemon, home: Path) -> None:
        self.one = one
        self.two = two
        self._home = home

    def start_lxc(self, *args: str) -> subprocess.Popen[bytes]:
        """Start ``lxc`` with the remotes ``one`` and ``two``."""
        return self.one.sandbox.popen(
            ["lxc", *args], env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def lxc(self, *args: str) -> str:
        """stdout of ``lxc`` that must succeed."""
        done = self.one.sandbox.run(["lxc", *args], env=self._env, check=False, timeout=120)
        assert done.returncode == 0, (args, done.stdout, done.stderr)
        return done.stdout

    def refused(self, *args: str) -> str:
        """stderr of ``lxc`` that must fail."""
        done = self.one.sandbox.run(["lxc", *args], env=self._env, check=False, timeout=120)
        assert done.returncode != 0, (args, done.stdout)
        return done.stderr

    @property
    def _env(self) -> dict[str, str]:
        return {"LXD_CONF": str(self._home), "HOME": str(self._home)}

    def clean(self) -> None:
        """Delete the instances of both, and see that nothing is left of them."""
        for each in (self.one, self.two):
            for path in each.get("/1.0/instances"):
                remove(each, path.rpartition("/")[2])
            assert nothing_left(each) == []


def nothing_left(daemon: Daemon) -> list[str]:
    """Traces of instances on disk; sandboxes are shared, so processes are not looked at."""
    return [found for found in leftovers(daemon) if found.startswith(str(daemon.lxd_dir))]


def prepare(daemon: Daemon, port: int) -> None:
    for pool in POOLS:
        daemon.lxc("storage", "create", pool, pool, *(["size=1GiB"] if pool == "btrfs" else []))
    daemon.lxc("profile", "device", "add", "default", "root", "disk", "path=/", "pool=dir")
    daemon.lxc("config", "set", "core.https_address", f"127.0.0.1:{port}")
    daemon.lxc("config", "set", "core.trust_password", PASSWORD)


@contextmanager
def paired(kinds: tuple[str, str], home: Path) -> Iterator[Pair]:
    """Two servers of these back ends, furnished."""
    with ExitStack() as undo:
        one, two = (Daemon(kind, f"m{n}") for n, kind in enumerate(kinds))
        undo.enter_context(one)
        two.sandbox = one.sandbox
        undo.callback(two.__exit__)
        undo.callback(setattr, two, "sandbox", Sandbox("none"))
        two.start()
        both = Pair(one, two, home)
        for name, daemon, port in zip(("one", "two"), (one, two), PORTS, strict=True):
            prepare(daemon, port)
            both.lxc(
                "remote", "add", name, f"127.0.0.1:{port}", "--accept-certificate",
                "--password", PASSWORD,
            )  # fmt: skip
        split = build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
        one.lxc("image", "import", *map(str, split), "--alias", "busybox")
        yield both


def need_both(backend: str) -> None:
    if backend == "lxd" or shutil.which("lxd") is None:
        pytest.skip("this pairs the bundled daemon with real LXD, which must be installed")


@pytest.fixture(scope="module", params=["same", "lxd-sends", "lxd-receives"])
def pair(
    request: pytest.FixtureRequest, backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two servers of the back end under test, or one of them real LXD."""
    kinds = {
        "same": (backend, backend),
        "lxd-sends": ("lxd", backend),
        "lxd-receives": (backend, "lxd"),
    }
    if request.param != "same":
        need_both(backend)
    with paired(kinds[request.param], tmp_path_factory.mktemp("client")) as both:
        yield both


@pytest.fixture
def servers(pair: Pair) -> Iterator[Pair]:
    """The pair, emptied after the test."""
    yield pair
    pair.clean()


def ours(daemon: Daemon) -> None:
    if daemon.backend != "bundled":
        pytest.skip("real LXD does otherwise")


def put(pair: Pair, instance: str, name: str, text: str) -> None:
    """Write a file into an instance of the first server."""
    path = f"/1.0/instances/{instance}/files?path=/root/{name}"
    headers = {"X-LXD-type": "file", "X-LXD-mode": "0640", "X-LXD-uid": "7", "X-LXD-gid": "8"}
    assert pair.one.api("POST", path, text.encode(), headers=headers).status == 200


def read(daemon: Daemon, instance: str, name: str) -> str | None:
    answer = daemon.api("GET", f"/1.0/instances/{instance}/files?path=/root/{name}")
    if answer.status != 200:
        return None
    assert (answer.headers["x-lxd-uid"], answer.headers["x-lxd-gid"]) == ("7", "8")
    assert answer.headers["x-lxd-mode"] == "0640"
    return bytes(answer.body).decode()


def snapshots(daemon: Daemon, instance: str) -> list[str]:
    return [each["name"] for each in daemon.instance_snapshots(instance)]


def source(pair: Pair, name: str, pool: str = "dir") -> None:
    """An instance with two snapshots and a different file at each point."""
    pair.lxc("init", "one:busybox", f"one:{name}", "-s", pool, "-c", "user.mine=yes")
    put(pair, name, "f", "first")
    pair.lxc("snapshot", f"one:{name}", "s0")
    put(pair, name, "f", "second")
    pair.lxc("config", "set", f"one:{name}", "user.mine", "changed")
    pair.lxc("snapshot", f"one:{name}", "s1")
    put(pair, name, "f", "third")


@pytest.mark.parametrize("mode", ["pull", "push", "relay"])
@pytest.mark.parametrize("pools", ["dir-dir", "btrfs-btrfs", "btrfs-dir", "dir-btrfs"])
def test_copy(servers: Pair, pools: str, mode: str) -> None:
    here, there = pools.split("-")
    source(servers, "c1", here)
    servers.lxc("copy", "one:c1", "two:c2", "-s", there, f"--mode={mode}")
    two = servers.two
    copied = two.instance("c2")
    assert copied["status"] == "Stopped"
    assert copied["config"]["user.mine"] == "changed"
    assert copied["expanded_devices"]["root"]["pool"] == there
    assert snapshots(two, "c2") == ["s0", "s1"]
    origin = servers.one.instance_snapshots("c1")
    for mine, theirs in zip(two.instance_snapshots("c2"), origin, strict=True):
        assert mine["created_at"][:19] == theirs["created_at"][:19]
        assert mine["config"]["user.mine"] == theirs["config"]["user.mine"]
        assert mine["architecture"] == theirs["architecture"]
    assert read(two, "c2", "f") == "third"
    two.lxc("start", "c2")
    # By their exit codes: real LXD now and then loses the output of a short program.
    two.exec("c2", "sh", "-c", '[ "$(stat -c %u /bin/busybox)" = 0 ]')
    two.exec("c2", "grep", "-q", "third", "/root/f")
    two.lxc("stop", "-f", "c2")
    for name, text in (("s0", "first"), ("s1", "second")):
        two.lxc("restore", "c2", name)
        assert read(two, "c2", "f") == text
    two.lxc("start", "c2")
    assert servers.one.status("c1") == "Stopped"


@pytest.mark.parametrize("mode", ["pull", "push", "relay"])
def test_move_keeps_what_the_instance_is(servers: Pair, mode: str) -> None:
    source(servers, "c1")
    before = servers.one.instance("c1")["config"]
    servers.lxc("move", "one:c1", "two:c1", f"--mode={mode}")
    assert servers.one.get("/1.0/instances") == []
    assert nothing_left(servers.one) == []
    after = servers.two.instance("c1")["config"]
    for key in ("volatile.uuid", "volatile.cloud-init.instance-id", "volatile.base_image"):
        assert after[key] == before[key], key
    assert snapshots(servers.two, "c1") == ["s0", "s1"]
    servers.lxc("start", "two:c1")


def test_without_snapshots_and_a_snapshot_alone(servers: Pair) -> None:
    source(servers, "c1", "btrfs")
    servers.lxc("copy", "one:c1", "two:alone", "--instance-only")
    assert snapshots(servers.two, "alone") == []
    assert read(servers.two, "alone", "f") == "third"
    for mode in ("pull", "push"):
        servers.lxc("copy", "one:c1/s0", f"two:old-{mode}", f"--mode={mode}")
        assert snapshots(servers.two, f"old-{mode}") == []
        assert read(servers.two, f"old-{mode}", "f") == "first"
        servers.lxc("start", f"two:old-{mode}")


@pytest.mark.parametrize("pool", POOLS)
def test_refresh_brings_what_has_changed(servers: Pair, pool: str) -> None:
    source(servers, "c1", pool)
    servers.lxc("copy", "one:c1", "two:c2", "--refresh", "-s", pool)
    kept = servers.two.instance_snapshots("c2")[1]
    servers.lxc("delete", "one:c1/s0")
    put(servers, "c1", "f", "fourth")
    servers.lxc("snapshot", "one:c1", "s2")
    put(servers, "c1", "f", "fifth")
    put(servers, "c1", "g", "new")
    for mode in ("pull", "push"):
        servers.lxc("copy", "one:c1", "two:c2", "--refresh", f"--mode={mode}")
        assert snapshots(servers.two, "c2") == ["s1", "s2"]
        assert servers.two.instance_snapshots("c2")[0] == kept
        assert read(servers.two, "c2", "f") == "fifth"
        assert read(servers.two, "c2", "g") == "new"
    servers.two.lxc("restore", "c2", "s2")
    assert read(servers.two, "c2", "f") == "fourth"
    assert read(servers.two, "c2", "g") is None
    servers.lxc("start", "two:c2")
    assert "running" in servers.refused("copy", "one:c1", "two:c2", "--refresh")


@pytest.mark.parametrize("pool", POOLS)
def test_running_instance(servers: Pair, pool: str) -> None:
    servers.lxc("launch", "one:busybox", "one:c1", "-s", pool)
    put(servers, "c1", "f", "live")
    refusal = servers.refused("copy", "one:c1", "two:c2")
    assert "CRIU" in refusal
    assert servers.two.get("/1.0/instances") == []
    servers.lxc("copy", "one:c1", "two:c2", "--stateless", "-s", pool)
    servers.one.wait_status("c1", "Running")  # real LXD thaws it a moment later
    servers.one.exec("c1", "true")
    assert servers.two.status("c2") == "Stopped"
    assert read(servers.two, "c2", "f") == "live"
    servers.lxc("start", "two:c2")


def test_refusals_leave_nothing(servers: Pair) -> None:
    source(servers, "c1")
    servers.lxc("init", "one:busybox", "one:other", "-s", "btrfs")
    servers.lxc("copy", "one:other", "two:taken")
    assert "already" in servers.refused("copy", "one:c1", "two:taken")
    servers.lxc("profile", "create", "one:strange")
    servers.lxc("profile", "assign", "one:c1", "default,strange")
    try:
        assert "strange" in servers.refused("copy", "one:c1", "two:c2")
    finally:
        servers.lxc("profile", "assign", "one:c1", "default")
        servers.lxc("profile", "delete", "one:strange")
    assert [path.rpartition("/")[2] for path in servers.two.get("/1.0/instances")] == ["taken"]
    remove(servers.two, "taken")
    assert nothing_left(servers.two) == []


def test_pool_that_the_target_has_not(servers: Pair) -> None:
    """The profiles' pool takes its place, as in LXD."""
    source(servers, "c1", "btrfs")
    servers.lxc("copy", "one:c1", "two:c2", "-s", "nowhere")
    assert servers.two.instance("c2")["expanded_devices"]["root"]["pool"] == "dir"
    assert read(servers.two, "c2", "f") == "third"


def migrate_body(**more: Any) -> dict[str, Any]:
    return {"migration": True, "instance_only": True, **more}


def pull_body(daemon: Daemon, port: int, operation: dict[str, Any]) -> dict[str, Any]:
    """What ``lxc copy`` asks the second server for."""
    certificate = (daemon.lxd_dir / "server.crt").read_text(encoding="ascii")
    return {
        "name": "c2",
        "profiles": ["default"],
        "source": {
            "type": "migration",
            "mode": "pull",
            "operation": f"https://127.0.0.1:{port}/1.0/operations/{operation['id']}",
            "certificate": certificate,
            "secrets": operation["metadata"],
        },
    }


def failed(daemon: Daemon, answer: Any) -> str:
    """The error of an operation that must fail."""
    done = daemon.get(f"{answer.body['operation']}/wait?timeout=60")
    assert done["status"] == "Failure", done
    return str(done["err"])


def test_secrets_and_certificates_are_checked(servers: Pair) -> None:
    ours(servers.one)
    ours(servers.two)
    servers.lxc("init", "one:busybox", "one:c1")
    one, two = servers.one, servers.two
    operation = one.api("POST", "/1.0/instances/c1", migrate_body()).metadata
    assert operation["class"] == "websocket" and operation["may_cancel"] is True
    assert sorted(operation["metadata"]) == ["control", "fs"]
    good = pull_body(one, PORTS[0], operation)
    other = {**good["source"], "certificate": (two.lxd_dir / "server.crt").read_text()}
    error = failed(two, two.api("POST", "/1.0/instances", {**good, "source": other}))
    assert "migration failed" in error
    guessed = {**good["source"], "secrets": {"control": "0" * 64, "fs": "0" * 64}}
    assert "403" in failed(two, two.api("POST", "/1.0/instances", {**good, "source": guessed}))
    for bad in ({"operation": "http://127.0.0.1/1.0/operations/x"}, {"secrets": None}):
        body = {**good, "source": {**good["source"], **bad}}
        assert two.api("POST", "/1.0/instances", body).status == 400
    two.operate("POST", "/1.0/instances", good)
    done = one.get(f"/1.0/operations/{operation['id']}/wait?timeout=60")
    assert done["status"] == "Success", done
    # The request named no architecture: it is the host's.
    assert two.instance("c2")["architecture"] == one.instance("c1")["architecture"]


def slow(pair: Pair, megabytes: int = 40) -> None:
    """An instance on the first server whose sending takes some ten seconds and more."""
    pair.lxc("storage", "set", "one:dir", "rsync.bwlimit", "2MiB")
    pair.lxc("init", "one:busybox", "one:c1")
    fill(pair, "c1", megabytes)


def fill(pair: Pair, name: str, megabytes: int) -> None:
    where = pair.one.lxd_dir / f"storage-pools/dir/containers/{name}/rootfs/root/big"
    pair.one.inside(
        "dd", "if=/dev/urandom", f"of={where}", "bs=1M", f"count={megabytes}", "status=none"
    )


@pytest.fixture
def slow_copy(servers: Pair) -> Iterator[tuple[Pair, subprocess.Popen[bytes]]]:
    """A copy of c1 to the second server that is under way."""
    ours(servers.one)
    ours(servers.two)
    slow(servers)
    process = servers.start_lxc("copy", "one:c1", "two:c2")

    def under_way() -> bool:
        return any(servers.two.lxd_dir.glob("storage-pools/dir/**/rootfs/root/.big.*"))

    wait_for(under_way, "the transfer")
    yield servers, process
    process.kill()
    process.communicate()
    servers.lxc("storage", "unset", "one:dir", "rsync.bwlimit")


SlowCopy = tuple[Pair, "subprocess.Popen[bytes]"]


def running_operations(daemon: Daemon) -> list[Any]:
    return list(daemon.get("/1.0/operations?recursion=1").get("running") or [])


def progress(daemon: Daemon) -> bool:
    (operation,) = running_operations(daemon)
    return "MB" in str((operation["metadata"] or {}).get("fs_progress"))


def test_progress_and_cancel(slow_copy: SlowCopy) -> None:
    servers, process = slow_copy
    for each in (servers.one, servers.two):
        (operation,) = running_operations(each)
        wait_for(partial(progress, each), "progress")
        assert operation["may_cancel"] is True
    (operation,) = running_operations(servers.two)
    assert servers.two.api("DELETE", f"/1.0/operations/{operation['id']}").status == 200
    assert process.wait(timeout=30) != 0
    wait_for(lambda: running_operations(servers.one) == [], "the source's end")
    assert servers.two.get("/1.0/instances") == []
    assert nothing_left(servers.two) == []
    # The source is free again.
    servers.lxc("storage", "unset", "one:dir", "rsync.bwlimit")
    servers.lxc("copy", "one:c1", "two:c3")


def test_source_cancelled(slow_copy: SlowCopy) -> None:
    servers, process = slow_copy
    (operation,) = running_operations(servers.one)
    assert servers.one.api("DELETE", f"/1.0/operations/{operation['id']}").status == 200
    assert process.wait(timeout=30) != 0
    wait_for(lambda: running_operations(servers.two) == [], "the target's end")
    assert servers.two.get("/1.0/instances") == []
    assert nothing_left(servers.two) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("victim", ["one", "two"])
def test_server_ends_meanwhile(slow_copy: SlowCopy, victim: str, how: signal.Signals) -> None:
    servers, process = slow_copy
    dead, other = getattr(servers, victim), servers.two if victim == "one" else servers.one
    began = time.monotonic()
    dead.stop(how)
    assert time.monotonic() - began < 20
    assert process.wait(timeout=30) != 0
    wait_for(lambda: running_operations(other) == [], "the other side's end")
    dead.start()
    assert servers.two.get("/1.0/instances") == []
    assert nothing_left(servers.two) == []
    assert servers.one.status("c1") == "Stopped"


def resident(daemon: Daemon) -> int:
    """MiB that the daemon's process keeps in memory."""
    status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii")
    (line,) = (each for each in status.splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


@pytest.mark.parametrize("pool", POOLS)
def test_memory_stays_and_the_server_answers(servers: Pair, pool: str) -> None:
    ours(servers.one)
    ours(servers.two)
    servers.lxc("init", "one:busybox", "one:c1")
    fill(servers, "c1", 300)
    if pool == "btrfs":
        servers.lxc("move", "one:c1", "one:c1", "-s", pool)
    before = [resident(each) for each in (servers.one, servers.two)]
    stop = threading.Event()
    waits: list[float] = []

    def ask() -> None:
        while not stop.is_set():
            for each in (servers.one, servers.two):
                began = time.monotonic()
                assert each.api("GET", "/1.0/operations").status == 200
                waits.append(time.monotonic() - began)
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        servers.lxc("copy", "one:c1", "two:c2", "-s", pool)
    finally:
        stop.set()
        thread.join()
    after = [resident(each) for each in (servers.one, servers.two)]
    assert all(b - a < 64 for a, b in zip(before, after, strict=True)), (before, after)
    assert len(waits) > 10 and sorted(waits)[len(waits) * 9 // 10] < 0.3, sorted(waits)[-10:]


def test_target_pool_too_small(servers: Pair) -> None:
    ours(servers.two)
    servers.lxc("storage", "create", "two:tiny", "btrfs", "size=300MiB")
    servers.lxc("init", "one:busybox", "one:c1", "-s", "dir")
    if servers.one.backend == "bundled":
        fill(servers, "c1", 400)
    else:
        where = servers.one.lxd_dir / "storage-pools/dir/containers/c1/rootfs/root/big"
        servers.one.inside("dd", "if=/dev/urandom", f"of={where}", "bs=1M", "count=400")
    error = servers.refused("copy", "one:c1", "two:c2", "-s", "tiny")
    assert error
    assert servers.two.get("/1.0/instances") == []
    assert nothing_left(servers.two) == []
    servers.lxc("storage", "delete", "two:tiny")


def test_shifted_trees_of_real_lxd(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where LXD has no idmapped mounts its trees hold host ids; here they never do."""
    need_both(backend)
    monkeypatch.setenv("LXD_IDMAPPED_MOUNTS_DISABLE", "true")
    with paired(("lxd", backend), tmp_path) as servers:
        for here, there in (("dir", "dir"), ("btrfs", "btrfs"), ("btrfs", "dir")):
            name = f"{here}-{there}"
            servers.lxc("launch", "one:busybox", f"one:{name}", "-s", here)
            servers.lxc("stop", "-f", f"one:{name}")
            servers.lxc("snapshot", f"one:{name}", "s0")
            before = servers.one.lxd_dir / f"storage-pools/{here}/containers/{name}/rootfs/bin"
            # Otherwise this shows nothing.
            assert servers.one.inside("stat", "-c", "%u", str(before)).stdout != "0\n"
            for _twice in range(2):
                servers.lxc("copy", f"one:{name}", f"two:{name}", "-s", there, "--refresh")
            top = servers.two.lxd_dir / f"storage-pools/{there}"
            for tree in ("containers", "containers-snapshots"):
                tail = f"{name}/s0" if tree.endswith("snapshots") else name
                tops = servers.two.inside("stat", "-c", "%u", f"{top}/{tree}/{tail}/rootfs/bin")
                assert tops.stdout == "0\n"
            servers.lxc("restore", f"two:{name}", "s0")
            servers.lxc("start", f"two:{name}")
            assert servers.two.exec(name, "stat", "-c", "%u", "/bin/busybox") == "0"


def test_within_one_server(servers: Pair) -> None:
    """Between pools and projects, by the same client commands."""
    source(servers, "c1")
    one = servers.one
    servers.lxc("move", "one:c1", "one:c1", "-s", "btrfs")
    assert one.instance("c1")["expanded_devices"]["root"]["pool"] == "btrfs"
    assert snapshots(one, "c1") == ["s0", "s1"]
    assert read(one, "c1", "f") == "third"
    servers.lxc("project", "create", "one:p", "-c", "features.images=false",
                "-c", "features.profiles=false")  # fmt: skip
    try:
        servers.lxc("move", "one:c1", "one:c1", "--target-project", "p")
        assert one.get("/1.0/instances") == []
        moved = one.get("/1.0/instances/c1?project=p&recursion=1")
        assert [s["name"] for s in moved["snapshots"]] == ["s0", "s1"]
        servers.lxc("copy", "one:c1", "one:c2", "--project", "p", "--target-project", "default")
        assert read(one, "c2", "f") == "third"
        servers.lxc("copy", "one:c1", "two:c3", "--project", "p", "--target-project", "default")
        assert read(servers.two, "c3", "f") == "third"
    finally:
        remove(one, "c1", "p")
        servers.lxc("project", "delete", "one:p")
