# SPDX-License-Identifier: Apache-2.0
"""The life of an instance, as `lxc` drives it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from nova_lxd.tests.functional.conftest import Launch, furnish, leftovers, remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


def test_launch_runs_and_delete_leaves_nothing(own: Daemon) -> None:
    done = own.lxc("launch", "busybox", "c1")
    assert "Creating c1" in done.stdout and "Starting c1" in done.stdout
    assert own.status("c1") == "Running"
    assert own.exec("c1", "hostname") == "c1"
    own.lxc("delete", "--force", "c1")
    assert own.api("GET", "/1.0/instances/c1").status == 404
    assert leftovers(own) == []
    links = own.inside("ip", "-o", "link").stdout
    assert "veth" not in links


def test_running_containers_do_not_fill_the_hosts_list_of_mounts(own: Daemon) -> None:
    """Each start copies and reads that list: it must not grow with what runs."""
    own.lxc("init", "busybox", "c1")
    before = own.inside("cat", "/proc/self/mountinfo").stdout.splitlines()
    own.lxc("start", "c1")
    after = own.inside("cat", "/proc/self/mountinfo").stdout.splitlines()
    own.lxc("delete", "--force", "c1")
    assert len(after) <= len(before), set(after) - set(before)


def test_init_creates_a_stopped_instance(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "user.colour=blue", start=False)
    instance = daemon.instance(name)
    assert instance["status"] == "Stopped"
    assert instance["status_code"] == 102
    assert instance["type"] == "container"
    assert instance["profiles"] == ["default"]
    assert instance["ephemeral"] is False and instance["stateful"] is False
    assert instance["config"]["user.colour"] == "blue"
    assert instance["config"]["image.os"] == "busybox"
    assert instance["config"]["volatile.apply_template"] == "create"
    assert re.fullmatch(r"[0-9a-f-]{36}", instance["config"]["volatile.uuid"])
    assert instance["expanded_devices"]["eth0"]["network"] == "lxdbr0"
    assert instance["devices"] == {}


def test_start_stop_are_refused_in_the_wrong_state(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    assert "already running" in daemon.refused("start", name)
    daemon.lxc("stop", "--force", name)
    assert daemon.status(name) == "Stopped"
    assert "already stopped" in daemon.refused("stop", name)


def test_clean_stop_asks_init(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(name, "sh", "-c", "echo 'echo halted > /root/halt-mark' >> /etc/init.d/rcK")
    daemon.lxc("stop", name, "--timeout", "20")
    assert daemon.status(name) == "Stopped"
    daemon.lxc("start", name)
    assert daemon.exec(name, "cat", "/root/halt-mark") == "halted"


def test_restart_gives_a_new_init(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    before = daemon.get(f"/1.0/instances/{name}/state")["pid"]
    daemon.exec(name, "touch", "/root/kept", "/tmp/kept")
    daemon.lxc("restart", "--force", name)
    after = daemon.get(f"/1.0/instances/{name}/state")["pid"]
    assert before != after and after > 0
    assert daemon.exec(name, "ls", "/root/kept") == "/root/kept"


def test_pause_freezes_and_start_resumes(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(
        name, "sh", "-c", "(while :; do echo x >> /tmp/ticks; sleep 0.05; done) >/dev/null 2>&1 &"
    )
    daemon.lxc("pause", name)
    assert daemon.status(name) == "Frozen"
    assert daemon.instance(name)["status_code"] == 110

    def ticks() -> int:
        return int(
            daemon.api("GET", f"/1.0/instances/{name}/files?path=/tmp/ticks").body.count(b"x")
        )

    first = ticks()
    assert first == ticks(), "a frozen guest went on"
    daemon.lxc("start", name)
    assert daemon.status(name) == "Running"
    wait_for(lambda: ticks() > first, "the guest going on")


def test_ephemeral_is_gone_after_stop(daemon: Daemon, launch: Launch) -> None:
    name = launch("--ephemeral")
    daemon.lxc("stop", "--force", name)
    wait_for(
        lambda: daemon.api("GET", f"/1.0/instances/{name}").status == 404, "deletion of ephemeral"
    )


def test_poweroff_from_inside_stops(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(name, "poweroff", check=False)  # may be killed by what it starts
    daemon.wait_status(name, "Stopped")
    assert daemon.get(f"/1.0/instances/{name}/state")["pid"] == 0
    wait_for(
        lambda: daemon.instance(name)["config"]["volatile.last_state.power"] == "STOPPED",
        "the recorded power state",
    )


def test_reboot_from_inside_starts_anew(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    before = daemon.get(f"/1.0/instances/{name}/state")["pid"]
    daemon.ipv4(name)
    daemon.exec(name, "reboot", check=False)

    def rebooted() -> bool:
        state = daemon.get(f"/1.0/instances/{name}/state")
        return state["status"] == "Running" and state["pid"] not in (0, before)

    wait_for(rebooted, "a new init after reboot")
    daemon.ipv4(name)


def test_name_rules(daemon: Daemon) -> None:
    for name in ("-x", "x-", "1x", "x_y", "x.y", "a" * 64, "ä"):
        answer = daemon.api("POST", "/1.0/instances", {"name": name, "source": {"type": "none"}})
        assert answer.status == 400, (name, answer)
        assert "name" in answer.error.lower(), answer.error


def test_created_without_a_name_gets_one(daemon: Daemon) -> None:
    done = daemon.operate(
        "POST", "/1.0/instances", {"source": {"type": "image", "alias": "busybox"}}
    )
    (path,) = done["resources"]["instances"]
    name = path.rpartition("/")[2]
    assert re.fullmatch(r"[a-z]+-[a-z]+", name)
    remove(daemon, name)


def test_duplicate_name_is_a_conflict(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    answer = daemon.api(
        "POST", "/1.0/instances", {"name": name, "source": {"type": "image", "alias": "busybox"}}
    )
    if answer.status == 202:
        done = daemon.get(answer.body["operation"] + "/wait")
        assert done["status_code"] == 400
        assert "already exists" in done["err"]
    else:
        assert answer.status == 409
        assert "already" in answer.error
    assert daemon.status(name) == "Stopped"


def test_rename_copy_move(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "user.mark=1")
    assert "running" in daemon.refused("rename", name, "renamed")
    daemon.lxc("stop", "--force", name)
    daemon.lxc("rename", name, "renamed")
    try:
        assert daemon.api("GET", f"/1.0/instances/{name}").status == 404
        assert daemon.instance("renamed")["config"]["user.mark"] == "1"
        daemon.lxc("copy", "renamed", "twin")
        one, two = daemon.instance("renamed"), daemon.instance("twin")
        assert two["config"]["user.mark"] == "1"
        assert one["config"]["volatile.uuid"] != two["config"]["volatile.uuid"]
        daemon.lxc("start", "twin")
        daemon.lxc("start", "renamed")
        assert daemon.exec("twin", "hostname") == "twin"
        assert daemon.exec("renamed", "hostname") == "renamed"
        hwaddr = "volatile.eth0.hwaddr"
        one, two = daemon.instance("renamed"), daemon.instance("twin")
        assert one["config"][hwaddr] != two["config"][hwaddr]
        daemon.lxc("stop", "--force", "twin")
        daemon.lxc("move", "twin", "moved")
        assert daemon.status("moved") == "Stopped"
        assert daemon.api("GET", "/1.0/instances/twin").status == 404
    finally:
        for each in ("renamed", "twin", "moved"):
            remove(daemon, each)


def test_copy_with_overrides(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "user.a=1", start=False)
    try:
        daemon.lxc("copy", name, "over", "-c", "user.a=2", "-c", "user.b=3", "-p", "default")
        config = daemon.instance("over")["config"]
        assert (config["user.a"], config["user.b"]) == ("2", "3")
    finally:
        remove(daemon, "over")


def test_list_filters_columns_and_formats(daemon: Daemon, launch: Launch) -> None:
    up = launch("-c", "user.role=web")
    down = launch("-c", "user.role=db", start=False)
    listed = json.loads(daemon.lxc("list", "--format=json").stdout)
    by_name = {each["name"]: each for each in listed}
    assert {up, down} <= set(by_name)
    assert by_name[up]["state"]["pid"] > 0
    assert by_name[down]["state"]["status"] == "Stopped"
    assert daemon.lxc("list", "status=running", "-cn", "-fcsv").stdout.split() == [up]
    assert daemon.lxc("list", "user.role=db", "-cns", "-fcsv").stdout.split() == [
        f"{down},STOPPED"
    ]
    shown = daemon.lxc("list", up, "-cnstSu,user.role:Part", "-fcsv").stdout.strip().split(",")
    assert shown[0] == up and shown[1] == "RUNNING" and shown[2] == "CONTAINER"
    assert shown[3] == "0" and shown[-1] == "web"
    table = daemon.lxc("list").stdout
    assert "| NAME" in table and f"| {up} " in table


def test_server_side_filter(daemon: Daemon, launch: Launch) -> None:
    up, down = launch(), launch("-c", "user.tag=x", start=False)
    names = {
        each["name"] for each in daemon.get("/1.0/instances?recursion=1&filter=status+eq+stopped")
    }
    assert down in names and up not in names
    found = daemon.get("/1.0/instances?recursion=1&filter=config.user.tag+eq+x")
    assert [each["name"] for each in found] == [down]
    found = daemon.get(f"/1.0/instances?recursion=2&filter=name+eq+{up}+and+status+eq+Running")
    assert [each["name"] for each in found] == [up]
    assert found[0]["state"]["pid"] > 0 and found[0]["snapshots"] is None


def test_info(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.ipv4(name)
    info = daemon.yaml("info", name)
    assert info["Name"] == name
    assert info["Status"] == "RUNNING"
    assert info["Type"] == "container"
    resources = info["Resources"]
    assert resources["Processes"] >= 2
    assert resources["Network usage"]["eth0"]["State"] == "UP"
    assert resources["Network usage"]["eth0"]["Host interface"].startswith("veth")


def test_state_of_a_running_guest(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.ipv4(name)
    state = daemon.get(f"/1.0/instances/{name}/state")
    assert state["status_code"] == 103
    assert state["processes"] >= 2
    assert state["memory"]["usage"] > 0
    assert state["cpu"]["usage"] > 0
    eth0 = state["network"]["eth0"]
    assert eth0["type"] == "broadcast" and eth0["state"] == "up" and eth0["mtu"] == 1500
    assert eth0["hwaddr"] == daemon.instance(name)["config"]["volatile.eth0.hwaddr"]
    assert eth0["counters"]["packets_sent"] > 0
    lo = state["network"]["lo"]
    assert {"family": "inet", "address": "127.0.0.1", "netmask": "8", "scope": "local"} in lo[
        "addresses"
    ]


def test_config_set_get_unset_show(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("config", "set", name, "user.one=1", "limits.memory=64MiB")
    assert daemon.lxc("config", "get", name, "user.one").stdout == "1\n"
    shown = daemon.yaml("config", "show", name)
    assert shown["config"]["limits.memory"] == "64MiB"
    assert "volatile.uuid" in shown["config"] and shown["devices"] == {}
    expanded = daemon.yaml("config", "show", "--expanded", name)
    assert set(expanded["devices"]) == {"eth0", "root"}
    daemon.lxc("config", "unset", name, "user.one")
    assert daemon.lxc("config", "get", name, "user.one").stdout == "\n"
    assert "user.one" not in daemon.instance(name)["config"]
    refused = daemon.refused("config", "set", name, "limits.memory=much")
    assert "much" in refused
    assert "nonsense" in daemon.refused("config", "set", name, "nonsense=1")
    assert daemon.instance(name)["config"]["limits.memory"] == "64MiB"


@pytest.mark.parametrize(
    "line",
    [
        "lxc.bad = 1",
        "lxc.cap.drop = bogus",
        "lxc.include = /nonexistent",
        "lxc.net.0.type = veth",
        "lxc.prlimit.nofile = 5",
        "lxc.log.file = /x",
        "garbage",
    ],
)
def test_raw_lxc_that_could_not_start_is_refused(
    daemon: Daemon, launch: Launch, line: str
) -> None:
    name = launch(start=False)
    assert daemon.refused("config", "set", name, "raw.lxc", line)
    assert "raw.lxc" not in daemon.instance(name)["config"]
    assert daemon.refused("profile", "set", "default", "raw.lxc", "garbage")


def test_raw_lxc_reaches_the_guest(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "raw.lxc=lxc.mount.entry = none mnt tmpfs size=64k,create=dir 0 0")
    assert "none /mnt tmpfs" in daemon.exec(name, "cat", "/proc/mounts")


def test_config_edit_replaces(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "user.gone=1", start=False)
    text = daemon.lxc("config", "show", name).stdout
    text = text.replace("user.gone: ", "user.here: ").replace('description: ""', "description: D")
    daemon.lxc("config", "edit", name, input=text)
    instance = daemon.instance(name)
    assert instance["description"] == "D"
    assert instance["config"]["user.here"] == "1" and "user.gone" not in instance["config"]


def test_memory_limit_changes_live(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "limits.memory=64MiB")

    assert daemon.memory_limit(name) == 64 << 20
    daemon.lxc("config", "set", name, "limits.memory", "96MiB")
    assert daemon.memory_limit(name) == 96 << 20
    daemon.lxc("config", "unset", name, "limits.memory")
    assert daemon.memory_limit(name) > 1 << 40
    assert daemon.status(name) == "Running"


def test_processes_limit_is_enforced_live(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.lxc("config", "set", name, "limits.processes", "8")
    out = daemon.lxc(
        "exec",
        name,
        "--",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 2 & done; wait",
        check=False,
    )
    assert out.returncode != 0
    assert "fork" in out.stderr


def test_cpu_limit_pins(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "limits.cpu=1")
    allowed = "grep Cpus_allowed_list /proc/self/status | cut -f2"
    assert re.fullmatch(r"\d+", daemon.exec(name, "sh", "-c", allowed))
    daemon.lxc("config", "set", name, "limits.cpu", "0-1")
    wait_for(lambda: daemon.exec(name, "sh", "-c", allowed) == "0-1", "both CPUs for the guest")


@pytest.fixture
def lxcfs(own: Daemon) -> Iterator[None]:
    """LXCFS beside the daemon, mounted where it always is."""
    where = "/var/lib/lxcfs"
    pidfile = str(own.home / "lxcfs.pid")
    process = own.sandbox.popen(["lxcfs", "-p", pidfile, where], stdout=subprocess.DEVNULL)
    try:
        wait_for(
            lambda: own.inside("test", "-e", f"{where}/proc/meminfo", check=False).returncode == 0,
            "lxcfs",
        )
        yield
    finally:
        own.inside("umount", "-l", where, check=False)
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.usefixtures("lxcfs")
def test_lxcfs_shows_the_limits_as_the_guests_own(own: Daemon) -> None:
    own.restart()  # a daemon looks for LXCFS when it starts
    own.lxc("launch", "busybox", "small", "-c", "limits.memory=64MiB", "-c", "limits.cpu=1")
    assert own.exec("small", "grep", "MemTotal", "/proc/meminfo").split()[1] == "65536"
    assert own.exec("small", "grep", "-c", "^processor", "/proc/cpuinfo") == "1"
    uptime = float(own.exec("small", "cut", "-d ", "-f1", "/proc/uptime"))
    assert uptime < 60
    own.lxc("config", "set", "small", "limits.memory=32MiB")
    assert own.exec("small", "grep", "MemTotal", "/proc/meminfo").split()[1] == "32768"


def test_kernel_modules_are_loaded_at_once(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    assert "nosuchmodule" in daemon.refused(
        "config", "set", name, "linux.kernel_modules", "nosuchmodule"
    )
    assert "linux.kernel_modules" not in daemon.instance(name)["config"]


def test_syscall_lists_that_contradict_each_other_are_refused(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch("-c", "security.syscalls.deny_default=false", start=False)
    daemon.lxc("config", "set", name, "security.syscalls.allow=read 1")
    for contrary in ("security.syscalls.deny=open", "security.syscalls.deny_default=true"):
        assert "mutually exclusive" in daemon.refused("config", "set", name, contrary)
    assert "mutually exclusive" in daemon.refused("config", "set", name, "raw.seccomp=2")


def test_environment_and_sysctl(daemon: Daemon, launch: Launch) -> None:
    name = launch(
        "-c", "environment.GREETING=hello world", "-c", "linux.sysctl.net.ipv4.ip_forward=1"
    )
    assert daemon.exec(name, "sh", "-c", "echo $GREETING") == "hello world"
    assert daemon.exec(name, "cat", "/proc/sys/net/ipv4/ip_forward") == "1"
    init = daemon.exec(name, "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ")
    assert "GREETING=hello world" in init.splitlines()
    assert "container=lxc" in init.splitlines()


def test_unprivileged_by_default_privileged_when_asked(daemon: Daemon, launch: Launch) -> None:
    plain, privileged = launch(), launch("-c", "security.privileged=true")
    assert daemon.exec(plain, "cat", "/proc/self/uid_map").split()[1] != "0"
    assert daemon.exec(privileged, "cat", "/proc/self/uid_map").split()[1] == "0"
    assert daemon.exec(plain, "stat", "-c", "%u:%g", "/etc/passwd") == "0:0"
    assert daemon.exec(plain, "sh", "-c", "touch /x && stat -c %u:%g /x") == "0:0"


def test_isolated_idmaps_do_not_overlap(daemon: Daemon, launch: Launch) -> None:
    names = [launch("-c", "security.idmap.isolated=true") for _ in range(2)]
    ranges = []
    for name in names:
        _inside, base, size = map(int, daemon.exec(name, "cat", "/proc/self/uid_map").split())
        assert size == 65536
        ranges.append(range(base, base + size))
    assert ranges[0].stop <= ranges[1].start or ranges[1].stop <= ranges[0].start


def test_protection_delete(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "security.protection.delete=true", start=False)
    assert "protected" in daemon.refused("delete", name)
    daemon.lxc("config", "unset", name, "security.protection.delete")
    daemon.lxc("delete", name)


def test_delete_of_a_running_instance_is_refused(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    assert "running" in daemon.refused("delete", name)
    assert daemon.status(name) == "Running"


def test_templates_by_trigger(daemon: Daemon, launch: Launch) -> None:
    name = launch("-c", "user.greeting=moin")
    once = daemon.exec(name, "cat", "/etc/template-once").splitlines()
    assert once == [
        f"name={name} trigger=create path=/etc/template-once greeting=once user=moin",
        "unprivileged",
    ]
    start = daemon.exec(name, "cat", "/etc/template-start").splitlines()
    assert start[0].startswith(
        f"name={name} trigger=start path=/etc/template-start greeting=start"
    )
    assert daemon.exec(name, "grep", "127.0.1.1", "/etc/hosts").split() == ["127.0.1.1", name]
    daemon.lxc("config", "set", name, "user.greeting=servus")
    daemon.exec(name, "rm", "/etc/hostname")
    daemon.lxc("restart", "--force", name)
    assert "user=servus" in daemon.exec(name, "cat", "/etc/template-start")
    assert "user=moin" in daemon.exec(name, "cat", "/etc/template-once")
    assert daemon.exec(name, "ls", "/etc/hostname", check=False) == ""


def test_rebuilt_metadata_and_templates_api(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    assert "hostname.tpl" in daemon.lxc("config", "template", "list", name).stdout
    shown = daemon.lxc("config", "template", "show", name, "hostname.tpl").stdout
    assert shown == "{{ container.name }}\n"
    daemon.lxc("config", "template", "create", name, "new.tpl")
    daemon.lxc("config", "template", "edit", name, "new.tpl", input="{{ instance.name }}!\n")
    assert daemon.lxc("config", "template", "show", name, "new.tpl").stdout == (
        "{{ instance.name }}!\n"
    )
    daemon.lxc("config", "template", "delete", name, "new.tpl")
    assert "new.tpl" not in daemon.lxc("config", "template", "list", name).stdout
    metadata = daemon.yaml("config", "metadata", "show", name)
    assert metadata["templates"]["/etc/hostname"]["template"] == "hostname.tpl"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_guests_outlive_the_daemon(own: Daemon, how: signal.Signals) -> None:
    own.lxc("launch", "busybox", "c1")
    own.exec("c1", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $! > /run/mark")
    before = own.get("/1.0/instances/c1/state")["pid"]
    own.restart(how)
    assert own.status("c1") == "Running"
    assert own.get("/1.0/instances/c1/state")["pid"] == before
    assert own.exec("c1", "sh", "-c", "kill -0 $(cat /run/mark) && echo alive") == "alive"
    own.ipv4("c1")
    own.lxc("stop", "--force", "c1")
    own.lxc("start", "c1")
    assert own.exec("c1", "echo", "ok") == "ok"
    own.lxc("delete", "--force", "c1")
    assert leftovers(own) == []


def test_death_while_the_daemon_is_down_is_noticed(own: Daemon) -> None:
    own.lxc("launch", "busybox", "c1")
    pid = own.get("/1.0/instances/c1/state")["pid"]
    own.stop()
    own.inside("kill", "-9", str(pid))
    own.start()
    own.wait_status("c1", "Stopped")
    own.lxc("start", "c1")
    assert own.exec("c1", "echo", "ok") == "ok"


def test_autostart_in_priority_order(own: Daemon) -> None:
    for name, priority in (("low", "1"), ("high", "10"), ("off", "")):
        own.lxc("init", "busybox", name)
        if priority:
            own.lxc("config", "set", name, "boot.autostart=true")
            own.lxc("config", "set", name, f"boot.autostart.priority={priority}")
    own.restart()
    own.wait_status("low", "Running")
    own.wait_status("high", "Running")
    assert own.status("off") == "Stopped"
    started = {name: own.get(f"/1.0/instances/{name}")["last_used_at"] for name in ("low", "high")}
    assert started["high"] < started["low"]


def test_shutdown_stops_guests_and_the_next_start_brings_them_back(own: Daemon) -> None:
    own.lxc("launch", "busybox", "c1")
    assert own.stop(signal.SIGPWR) == 0
    assert not [line for line in own.sandbox.processes() if line.startswith("[lxc monitor]")]
    own.start()
    own.wait_status("c1", "Running")


def test_fresh_daemon_has_lxds_defaults(bare: Daemon) -> None:
    assert bare.get("/1.0/profiles") == ["/1.0/profiles/default"]
    assert bare.get("/1.0/projects") == ["/1.0/projects/default"]
    assert bare.get("/1.0/storage-pools") == []
    assert bare.get("/1.0/instances") == []
    config = bare.get("/1.0/projects/default")["config"]
    assert config["features.images"] == "true" and config["features.profiles"] == "true"
    furnish(bare)
    assert bare.lxc("list", "-fcsv").stdout == ""


def test_cluster_says_not_clustered(daemon: Daemon) -> None:
    assert "isn't part of a cluster" in daemon.refused("cluster", "list")
    assert daemon.api("GET", "/1.0/cluster/members").error == "Server is not clustered"
    cluster = daemon.get("/1.0/cluster")
    assert cluster["enabled"] is False and cluster["server_name"] == ""


def test_logs_are_listed_and_read(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    path = f"/1.0/instances/{name}/logs"
    assert daemon.get(path) == [f"{path}/lxc.conf", f"{path}/lxc.log"]
    conf = daemon.api("GET", f"{path}/lxc.conf")
    assert conf.status == 200 and b"lxc.rootfs.path" in conf.body
    assert daemon.api("GET", f"{path}/console.log").status == 400
    missing = f"exec_{'0' * 8}-0000-0000-0000-{'0' * 12}.stdout"
    assert daemon.api("GET", f"{path}/{missing}").status >= 400
    assert daemon.api("DELETE", f"{path}/lxc.conf").status >= 400


def test_there_are_no_virtual_machines(daemon: Daemon, launch: Launch) -> None:
    launch(start=False)
    assert daemon.get("/1.0/virtual-machines") == []
    assert daemon.get("/1.0/instances?instance-type=virtual-machine") == []


def test_info_resources(daemon: Daemon) -> None:
    text = daemon.lxc("info", "--resources").stdout
    assert "CPU" in text and "Memory:" in text
    resources = daemon.get("/1.0/resources")
    assert resources["cpu"]["total"] >= 1
    assert resources["memory"]["total"] > 0
    server = daemon.get("/1.0")
    assert server["environment"]["server"] == "lxd"
    assert server["environment"]["kernel"] == "Linux"
    assert server["auth"] == "trusted" and server["api_version"] == "1.0"


def test_environment_has_no_line_breaks(daemon: Daemon, launch: Launch) -> None:
    """Else the instance could not be started any more."""
    name = launch(start=False)
    error = daemon.refused("config", "set", name, "environment.X=a\nlxc.hook.start-host=/bin/x")
    assert "Environment variables cannot contain line breaks" in error
    assert "environment.X" not in daemon.instance(name)["config"]
