# SPDX-License-Identifier: Apache-2.0
"""What names in ``api_extensions`` promise, where no other test needs it.

``nova_lxd/tests/unit/schema/test_extensions.py`` says which test stands for which name.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.tests.functional.conftest import Launch, remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


@pytest.fixture
def bridge(daemon: Daemon) -> Iterator[str]:
    """A bridge of its own with everything that can be said of DHCP, DNS and NAT."""
    daemon.lxc(
        "network", "create", "brx", "ipv4.address=10.91.0.1/24", "ipv6.address=none",
        "ipv4.dhcp.expiry=2h", "ipv4.dhcp.gateway=10.91.0.77", "dns.search=one.test,two.test",
        "bridge.hwaddr=02:00:00:00:00:91", "ipv4.nat=true", "ipv4.nat.address=10.99.0.9",
        "ipv4.nat.order=after", "ipv4.routes=10.92.0.0/24",
    )  # fmt: skip
    yield "brx"
    daemon.lxc("network", "delete", "brx")


def test_bridge_keys_reach_the_host(daemon: Daemon, bridge: str) -> None:
    [server] = [p for p in daemon.sandbox.processes() if "dnsmasq" in p and bridge in p]
    assert ",2h" in server and "3,10.91.0.77" in server
    assert "119,one.test,two.test" in server
    assert "02:00:00:00:00:91" in daemon.inside("ip", "link", "show", bridge).stdout
    assert "10.99.0.9" in daemon.inside("nft", "list", "ruleset").stdout
    assert "10.92.0.0/24" in daemon.inside("ip", "route").stdout
    assert daemon.refused("network", "set", bridge, "ipv4.nat.order=sideways")


def test_rlimits_are_those_of_init(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "limits.kernel.nofile=1234:2345")
    pid = daemon.get(f"/1.0/instances/{name}/state")["pid"]
    lines = daemon.inside("cat", f"/proc/{pid}/limits").stdout.splitlines()
    [line] = [line for line in lines if line.startswith("Max open files")]
    assert line.split()[3:5] == ["1234", "2345"]


def test_denied_system_call_fails(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "security.syscalls.deny=mkdir errno 1\nmkdirat errno 1")
    assert daemon.exec(name, "sh", "-c", "mkdir /root/d 2>/dev/null || echo denied") == "denied"


def test_base_of_an_isolated_map(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "security.idmap.isolated=true", "-c", "security.idmap.base=1300000")
    assert daemon.exec(name, "cat", "/proc/self/uid_map").split()[1] == "1300000"
    assert "1300000" in daemon.instance(name)["config"]["volatile.idmap.current"]


def test_raw_mount_options(daemon: Daemon, launch: Launch) -> None:
    disk = daemon.home / "disk.img"
    disk.touch()
    os.truncate(disk, 16 << 20)
    daemon.inside("mkfs.ext4", "-q", str(disk))
    loop = daemon.inside("losetup", "--find", "--show", str(disk)).stdout.strip()
    name = launch(start=False)
    try:
        daemon.lxc(
            "config", "device", "add", name, "d", "disk", f"source={loop}", "path=/mnt",
            "raw.mount.options=commit=7",
        )  # fmt: skip
        daemon.lxc("start", name)
        mounts = daemon.exec(name, "cat", "/proc/self/mounts").splitlines()
        [options] = [line.split()[3] for line in mounts if line.split()[1] == "/mnt"]
        assert "commit=7" in options.split(",")
    finally:
        remove(daemon, name)
        daemon.inside("losetup", "--detach", loop)


def test_environment_tells_features(daemon: Daemon) -> None:
    found = daemon.get("/1.0")["environment"]
    assert found["kernel_features"] and found["lxc_features"]["cgroup2"] == "true"
    assert found["os_name"] and found["firewall"] in ("nftables", "xtables")
    assert "dir" in [driver["Name"] for driver in found["storage_supported_drivers"]]
    assert found["driver"] == "lxc"


def test_resources(daemon: Daemon) -> None:
    found = daemon.get("/1.0/resources")
    assert found["cpu"]["sockets"][0]["cores"][0]["threads"][0]["numa_node"] >= 0
    assert found["memory"]["total"] > 0
    assert {"gpu", "network", "storage", "pci", "usb", "system"} <= found.keys()
    assert all("type" in disk and "device" in disk for disk in found["storage"]["disks"] or [])
    assert "uuid" in found["system"]


def test_many_instances_change_state_at_once(own: Daemon) -> None:
    for name in ("a", "b"):
        own.lxc("init", "busybox", name)
    own.operate("PUT", "/1.0/instances", {"state": {"action": "start"}})
    assert [own.status(name) for name in ("a", "b")] == ["Running", "Running"]
    own.operate("PUT", "/1.0/instances", {"state": {"action": "stop", "force": True}})
    assert [own.status(name) for name in ("a", "b")] == ["Stopped", "Stopped"]


def test_one_instance_in_full(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.lxc("snapshot", name, "s0")
    found = daemon.get(f"/1.0/instances/{name}?recursion=1")
    assert found["state"]["status"] == "Running" and found["snapshots"][0]["name"] == "s0"
    assert found["backups"] in (None, [])
    eth0 = found["state"]["network"]["eth0"]["counters"]
    assert {"errors_received", "packets_dropped_inbound"} <= eth0.keys()
    assert found["location"] == "none" and found["type"] == "container"


def test_all_projects(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("storage", "volume", "create", "default", "everywhere")
    try:
        instances = daemon.get("/1.0/instances?all-projects=true&recursion=1")
        assert name in [each["name"] for each in instances]
        url = "/1.0/storage-pools/default/volumes?recursion=1"
        volumes = daemon.get(f"{url}&all-projects=true")
        assert ("everywhere", "default") in [(v["name"], v["project"]) for v in volumes]
        assert [v["name"] for v in daemon.get(f"{url}&filter=name+eq+everywhere")] == [
            "everywhere"
        ]
    finally:
        daemon.lxc("storage", "volume", "delete", "default", "everywhere")


def test_state_of_a_volume(daemon: Daemon) -> None:
    daemon.lxc("storage", "create", "measured", "btrfs", "size=1GiB")
    daemon.lxc("storage", "volume", "create", "measured", "v", "size=64MiB")
    try:
        state = daemon.get("/1.0/storage-pools/measured/volumes/custom/v/state")
        assert 0 <= state["usage"]["used"] < state["usage"]["total"] == 64 << 20
    finally:
        daemon.lxc("storage", "volume", "delete", "measured", "v")
        daemon.lxc("storage", "delete", "measured")


def test_volume_moves_to_another_project(daemon: Daemon) -> None:
    daemon.lxc("project", "create", "vols")
    daemon.lxc("storage", "volume", "create", "default", "mover")
    try:
        daemon.lxc("storage", "volume", "move", "default/mover", "default/mover",
                   "--project=default", "--target-project=vols")  # fmt: skip
        url = "/1.0/storage-pools/default/volumes/custom/mover"
        assert daemon.api("GET", url).status == 404
        assert daemon.get(f"{url}?project=vols")["name"] == "mover"
    finally:
        daemon.lxc("storage", "volume", "delete", "default", "mover", "--project=vols")
        daemon.lxc("project", "delete", "vols")


def test_volume_keeps_ids_of_the_host_when_unmapped(daemon: Daemon, launch: Launch) -> None:
    daemon.lxc("storage", "volume", "create", "default", "raw", "security.unmapped=true")
    name = launch()
    try:
        daemon.lxc("storage", "volume", "attach", "default", "raw", name, "/mnt")
        # The host's root owns it, whom the guest does not know.
        assert daemon.exec(name, "stat", "-c", "%u", "/mnt") == "65534"
    finally:
        remove(daemon, name)
        daemon.lxc("storage", "volume", "delete", "default", "raw")


def test_metrics_under_lxds_names(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    text = daemon.api("GET", "/1.0/metrics").body.decode()
    for metric in ("lxd_cpu_seconds_total", "lxd_memory_MemTotal_bytes", "lxd_procs_total"):
        assert any(
            line.startswith(metric + "{") and f'name="{name}"' in line
            for line in text.splitlines()
        ), metric


def test_snapshots_never_expire_when_told(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "snapshots.expiry=1d", start=False)
    daemon.lxc("snapshot", name, "kept", "--no-expiry")
    daemon.lxc("snapshot", name, "short")
    kept, short = daemon.instance_snapshots(name)
    assert kept["expires_at"].startswith("0001-01-01")
    assert not short["expires_at"].startswith("0001-01-01")


def test_join_token_expires(own: Daemon) -> None:
    own.lxc("config", "set", "core.https_address", "127.0.0.1:8443")
    own.lxc("config", "set", "core.remote_token_expiry", "1M")
    own.lxc("config", "trust", "add", "--name", "late")
    [operation] = own.get("/1.0/operations?recursion=1")["running"]
    assert operation["class"] == "token"
    assert "expiresAt" in operation["metadata"]


def test_certificate_is_changed(daemon: Daemon, tmp_path: Any) -> None:
    key, cert = tmp_path / "k", tmp_path / "c"
    daemon.inside(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384",
        "-nodes", "-keyout", str(key), "-out", str(cert), "-subj", "/CN=x", "-days", "2",
    )  # fmt: skip
    daemon.lxc("config", "trust", "add", str(cert), "--name", "before")
    [found] = [c for c in daemon.get("/1.0/certificates?recursion=1") if c["name"] == "before"]
    url = f"/1.0/certificates/{found['fingerprint']}"
    changed = {"name": "after", "type": "client", "restricted": True, "projects": ["default"]}
    assert daemon.api("PATCH", url, changed).status == 200
    now = daemon.get(url)
    assert (now["name"], now["restricted"], now["projects"]) == ("after", True, ["default"])
    assert daemon.api("DELETE", url).status == 200


def test_host_shutdown_takes_its_order_and_time(own: Daemon) -> None:
    """An instance that ignores the request is killed in time; later ones run until then."""
    for name, priority in (("first", "10"), ("last", "0")):
        own.lxc("init", "busybox", name, "-c", f"boot.stop.priority={priority}",
                "-c", "boot.host_shutdown_timeout=4",
                "-c", "raw.lxc=lxc.signal.halt = SIGCONT")  # fmt: skip
        own.lxc("start", name)
    pids = {name: own.get(f"/1.0/instances/{name}/state")["pid"] for name in ("first", "last")}
    began = time.monotonic()
    stopping = own.sandbox.popen(own.admin_argv("shutdown"), env=own.environment)

    def alive(name: str) -> bool:
        return own.inside("test", "-d", f"/proc/{pids[name]}", check=False).returncode == 0

    wait_for(lambda: not alive("first"), "the end of the first")
    assert 4 <= time.monotonic() - began < 20
    assert alive("last")
    assert stopping.wait(timeout=60) == 0
    assert not alive("last")


def test_image_expiry_and_types(daemon: Daemon) -> None:
    url = f"/1.0/images/{daemon.get('/1.0/images/aliases/busybox')['target']}"
    image = daemon.get(url)
    assert image["type"] == "container" and "expires_at" in image
    when = "2040-01-02T03:04:05Z"
    changed = {**image, "expires_at": when, "profiles": ["default"]}
    assert daemon.api("PUT", url, changed).status == 200
    assert daemon.get(url)["expires_at"] == when
    assert daemon.get(url)["profiles"] == ["default"]


def test_schedule_aliases(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("config", "set", name, "snapshots.schedule=@startup")
    daemon.lxc("start", name)
    wait_for(lambda: daemon.instance_snapshots(name), "the snapshot at start")
    daemon.lxc("storage", "volume", "create", "default", "timed")
    daemon.lxc("storage", "volume", "set", "default", "timed", "snapshots.schedule=@daily")
    daemon.lxc("storage", "volume", "delete", "default", "timed")


def test_last_use_is_told(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    before = daemon.instance(name)["last_used_at"]
    daemon.lxc("start", name)
    assert daemon.instance(name)["last_used_at"] > before


def test_compression_of_published_images(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    for algorithm, size in (("none", 0), ("gzip", 1)):
        daemon.lxc("publish", name, "--alias", f"p{size}", f"--compression={algorithm}")
    sizes = []
    for alias in ("p0", "p1"):
        target = daemon.get(f"/1.0/images/aliases/{alias}")["target"]
        sizes.append(daemon.get(f"/1.0/images/{target}")["size"])
        daemon.lxc("image", "delete", target)
    assert sizes[0] > sizes[1]


def test_warning_is_shown_acknowledged_and_deleted(own: Daemon) -> None:
    own.lxc("init", "busybox", "broken", "-c", "boot.autostart=true")
    share = own.home / "share"
    share.mkdir()
    own.lxc("config", "device", "add", "broken", "d", "disk", f"source={share}", "path=/mnt")
    share.rmdir()
    own.restart()
    wanted = "Failed to autostart instance"

    def found() -> Any:
        warnings = own.get("/1.0/warnings?recursion=1")
        return [each for each in warnings if each["type"] == wanted]

    [warning] = wait_for(found, "the warning")
    assert (warning["status"], warning["entity_url"]) == ("new", "/1.0/instances/broken")
    url = f"/1.0/warnings/{warning['uuid']}"
    assert own.api("PUT", url, {"status": "acknowledged"}).status == 200
    assert own.get(url)["status"] == "acknowledged"
    assert own.api("DELETE", url).status == 200
    assert found() == []


def test_mount_options_of_a_btrfs_pool(daemon: Daemon) -> None:
    daemon.lxc("storage", "create", "tuned", "btrfs", "size=1GiB",
               "btrfs.mount_options=noatime,user_subvol_rm_allowed")  # fmt: skip
    try:
        mounts = Path(f"/proc/{daemon.pid}/mounts").read_text(encoding="ascii").splitlines()
        [options] = [line.split()[3] for line in mounts if line.split()[1].endswith("pools/tuned")]
        assert {"noatime", "user_subvol_rm_allowed"} <= set(options.split(","))
    finally:
        daemon.lxc("storage", "delete", "tuned")


def test_snapshots_of_a_volume_expire(daemon: Daemon) -> None:
    daemon.lxc("storage", "volume", "create", "default", "ageing", "snapshots.expiry=1d")
    try:
        daemon.lxc("storage", "volume", "snapshot", "default", "ageing", "s0")
        url = "/1.0/storage-pools/default/volumes/custom/ageing/snapshots/s0"
        assert daemon.get(url)["expires_at"] > daemon.get(url)["created_at"]
    finally:
        daemon.lxc("storage", "volume", "delete", "default", "ageing")


def test_running_instance_is_copied_as_it_is_when_told(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.lxc("copy", name, "shaky", "--allow-inconsistent")
    try:
        assert daemon.status("shaky") == "Stopped"
    finally:
        remove(daemon, "shaky")


@pytest.fixture
def net_prio_hierarchy(tmp_path: Path) -> Iterator[None]:
    """The kernel's hierarchy of the net_prio controller, which few hosts have mounted.

    Only the first cgroup namespace may make one; nobody else sees this mount.
    """
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("this host has cgroup v2 alone, which knows no priority of packets")
    script = f"mount -t cgroup -o net_prio none {tmp_path} && echo mounted && read -r _end"
    argv = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdin is not None and held.stdout is not None
        if held.stdout.readline() != "mounted\n":
            pytest.skip("this kernel lacks the net_prio controller")
        yield
        held.stdin.close()


@pytest.fixture
def with_net_prio(net_prio_hierarchy: None, own: Daemon) -> Iterator[Daemon]:
    """A daemon on a host that has the net_prio controller mounted."""
    top = "/sys/fs/cgroup/net_prio"
    own.stop()
    own.inside("mkdir", top)
    own.inside("mount", "-t", "cgroup", "-o", "net_prio", "none", top)
    own.start()
    try:
        yield own
    finally:
        remove(own, "c1")
        own.stop()
        own.inside("find", top, "-mindepth", "1", "-depth", "-type", "d", "-exec", "rmdir", "{}",
                   ";", check=False)  # fmt: skip
        own.inside("umount", top)


def test_network_priority(with_net_prio: Daemon) -> None:
    daemon = with_net_prio
    daemon.lxc("launch", "busybox", "c1", "-c", "limits.network.priority=5")
    pid = daemon.get("/1.0/instances/c1/state")["pid"]
    groups = daemon.inside("cat", f"/proc/{pid}/cgroup").stdout.splitlines()
    [group] = [line.split(":")[2] for line in groups if line.split(":")[1] == "net_prio"]

    def priority(value: str) -> None:
        file = f"/sys/fs/cgroup/net_prio{group}/net_prio.ifpriomap"
        wait_for(
            lambda: f"lo {value}" in daemon.inside("cat", file).stdout.splitlines(),
            f"priority {value}",
        )

    priority("5")
    daemon.lxc("config", "set", "c1", "limits.network.priority=7")
    priority("7")
    daemon.lxc("config", "unset", "c1", "limits.network.priority")
    priority("0")
