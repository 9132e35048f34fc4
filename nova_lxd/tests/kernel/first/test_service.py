# SPDX-License-Identifier: Apache-2.0
"""The unit files of etc/systemd under a real systemd."""

from __future__ import annotations

from pathlib import Path

from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.kernel.conftest import COMMAND, Launch
from nova_lxd.tests.kernel.host import (
    LXD_DIR,
    SERVICES,
    init_pid,
    lxc,
    query,
    refused,
    run,
    state,
    unit,
)

DAEMON = SERVICES[0]


def main_pid() -> int:
    """The pid of the daemon, as systemd knows it."""
    return int(unit(DAEMON, "MainPID")["MainPID"])


def test_units_are_well_formed(installed: None) -> None:
    said = run("systemd-analyze", "verify", "--man=no", *SERVICES).stderr
    ours = [line for line in said.splitlines() if "nova-lxd" in line]
    assert not ours


def test_notifies_when_ready(service: None) -> None:
    shown = unit(DAEMON, "Type", "ActiveState", "SubState", "NRestarts", "StatusText")
    assert shown["Type"] == "notify"
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    assert shown["NRestarts"] == "0"
    command = Path(f"/proc/{main_pid()}/cmdline").read_bytes().split(b"\0")
    assert b"nova_lxd.lxd.cli" in command and b"daemon" in command
    assert run(COMMAND, "waitready", "--timeout=5").returncode == 0


def test_environment_is_this_kernels(service: None) -> None:
    environment = query("/1.0")["environment"]
    assert environment["kernel_version"] == run("uname", "-r").stdout.strip()
    assert environment["server_pid"] == main_pid()
    assert Path("/proc/1/comm").read_text(encoding="ascii") == "systemd\n"


def test_life_of_a_container(launch: Launch) -> None:
    name = launch()
    assert state(name)["status"] == "Running"
    assert lxc("exec", name, "--", "hostname").strip() == name
    assert lxc("exec", name, "--", "cat", "/proc/1/comm").strip() == "init"
    lxc("stop", name)
    assert state(name)["status"] == "Stopped"
    lxc("start", name)
    before = init_pid(name)
    lxc("restart", name)
    assert init_pid(name) != before
    lxc("delete", "-f", name)
    assert name not in [item["name"] for item in query("/1.0/instances?recursion=1")]
    assert not (LXD_DIR / "logs" / name).exists()


def test_address_by_dhcp(launch: Launch) -> None:
    name = launch()

    def addresses() -> list[str]:
        network = state(name)["network"]["eth0"]
        return [a["address"] for a in network["addresses"] if a["family"] == "inet"]

    wait_for(addresses, "an address by DHCP", timeout=60)


def test_guests_see_parts_of_the_host(launch: Launch) -> None:
    name = launch()
    mounts = lxc("exec", name, "--", "cat", "/proc/self/mounts")
    for path in ("/proc/sys/fs/binfmt_misc", "/sys/kernel/config", "/sys/kernel/security"):
        assert f" {path} " in mounts, mounts


def test_rules_without_nftables_are_refused(service: None) -> None:
    said = refused("network", "create", "other", "ipv4.address=10.80.0.1/24", "ipv6.address=none")
    assert "nftables" in said and "Operation not supported" in said
    assert "other" not in [network["name"] for network in query("/1.0/networks?recursion=1")]
    assert not Path("/sys/class/net/other").exists()


def test_containers_outlive_a_restart(launch: Launch) -> None:
    name = launch()
    daemon, container = main_pid(), init_pid(name)
    run("systemctl", "restart", DAEMON)
    assert main_pid() != daemon
    assert init_pid(name) == container
    assert lxc("exec", name, "--", "echo", "there").strip() == "there"
    run("systemctl", "stop", DAEMON)
    assert unit(DAEMON, "ActiveState", "Result") == {
        "ActiveState": "inactive",
        "Result": "success",
    }
    assert Path(f"/proc/{container}").is_dir(), "stopping the daemon ended its container"
    run("systemctl", "start", *SERVICES)
    assert init_pid(name) == container


def test_killed_daemon_is_started_again(launch: Launch) -> None:
    name = launch()
    daemon, container = main_pid(), init_pid(name)
    run("systemctl", "kill", "--kill-who=main", "--signal=KILL", DAEMON)

    def again() -> bool:
        shown = unit(DAEMON, "ActiveState", "MainPID")
        return shown["ActiveState"] == "active" and shown["MainPID"] not in ("0", str(daemon))

    wait_for(again, "the daemon after its death", timeout=60, interval=0.5)
    assert init_pid(name) == container
    lxc("stop", "-f", name)


def test_guests_for_the_next_boot(service: None) -> None:
    """Last here: ``again`` looks at what became of them."""
    options = {
        "a-early": ("boot.autostart.priority=10", "boot.stop.priority=1"),
        "b-late": ("boot.autostart.priority=1", "boot.stop.priority=5"),
        "c-not": ("boot.autostart=false",),
    }
    for name, config in options.items():
        lxc("launch", "busybox", name, *(word for item in config for word in ("-c", item)))
        # The guest's own script at shutdown leaves a note, on the disk that stays.
        lxc("exec", name, "--", "sh", "-c", "echo 'echo clean >> /stopped' >> /etc/init.d/rcK")
        assert state(name)["status"] == "Running"
