# SPDX-License-Identifier: Apache-2.0
"""Real Open vSwitch ports, userspace datapath: packets pass, and pass again after every reboot."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from nova.compute import power_state

from nova_lxd.tests.functional import daemon
from nova_lxd.tests.functional.virt import guests, world
from nova_lxd.virt import guest, vifs

TOOLS = ("ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovsdb-tool")
PATH = os.environ.get("PATH", "") + ":/usr/sbin"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
REMOTE = "tcp:127.0.0.1:6640"

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        not all(shutil.which(tool, path=PATH) for tool in TOOLS), reason="no Open vSwitch"
    ),
]


def run(*command: object) -> str:
    return subprocess.run(
        list(map(str, command)),
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH},
    ).stdout


@pytest.fixture(scope="module")
def switch(conf: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run an Open vSwitch of our own with br-int, and point os-vif at it."""
    import os_vif
    from oslo_config import cfg
    from vif_plug_ovs import privsep

    directory = tmp_path_factory.mktemp("ovs")
    database, control = directory / "conf.db", f"--unixctl={directory}"
    run("ovsdb-tool", "create", database, SCHEMA)
    pids = []

    def start(program: str, *arguments: object) -> None:
        pid = directory / f"{program}.pid"
        run(
            program, *arguments, "--detach", "--no-chdir", f"--pidfile={pid}",
            f"{control}/{program}.ctl", f"--log-file={directory}/{program}.log", "-vconsole:off",
        )  # fmt: skip
        pids.append(int(pid.read_text()))

    start("ovsdb-server", database, "--remote=ptcp:6640:127.0.0.1")
    run("ovs-vsctl", f"--db={REMOTE}", "--no-wait", "init")
    start("ovs-vswitchd", REMOTE)
    run(
        "ovs-vsctl", f"--db={REMOTE}", "add-br", "br-int",
        "--", "set", "bridge", "br-int", "datapath_type=netdev",
    )  # fmt: skip
    privsep.vif_plug.set_client_mode(False)
    os_vif.initialize()
    cfg.CONF.set_override("ovsdb_connection", REMOTE, "os_vif_ovs")
    os_vif.initialize(reset=True)
    yield
    run("ovs-vsctl", f"--db={REMOTE}", "del-br", "br-int")
    for pid in reversed(pids):
        os.kill(pid, 15)
        while pathlib.Path(f"/proc/{pid}").exists():
            time.sleep(0.1)


class Peer:
    """An instance with an address of its own on the switch."""

    def __init__(self, driver: Any, context: Any, image: str, number: int) -> None:
        self.driver, self.context = driver, context
        self.address = f"192.0.2.{number}"
        self.instance = world.instance(image, 20 + number)
        self.ports = world.network_info(1, vif_type="ovs")
        self.ports[0]["details"] = {"datapath_type": "netdev"}  # as Neutron tells
        driver.spawn(context, self.instance, world.image_meta(image), [], None, {}, self.ports)
        self.pid = driver.instances.state(guest.name(self.instance))["pid"]
        self.dress()

    def dress(self) -> None:
        """Set the address, as a DHCP client would."""
        guests.run(
            self.driver,
            self.instance,
            "ip",
            "addr",
            "replace",
            f"{self.address}/24",
            "dev",
            "eth0",
        )

    def reaches_without_server(self, other: Peer) -> None:
        """Check ICMP from inside, while no server runs that would carry out a command."""
        ping = ["ping", "-c1", "-W2", other.address]
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", *ping], check=True)

    def reaches(self, other: Peer) -> None:
        """Check ICMP, and TCP, which dies of unfinished checksums."""

        def ping() -> bool:
            try:
                guests.run(self.driver, self.instance, "ping", "-c1", "-W1", other.address)
            except AssertionError:
                return False
            return True

        guests.wait_for(ping, f"{self.address} reaches {other.address}", 20)
        served = "while :; do echo over-tcp | nc -l -p 80; done"
        guests.run(self.driver, other.instance, "sh", "-c", f"({served}) >/dev/null 2>&1 &")
        command = f"sleep 0.3; nc -w 3 {other.address} 80 </dev/null"
        answer = guests.run(self.driver, self.instance, "sh", "-c", command)
        assert "over-tcp" in answer
        guests.run(
            self.driver, other.instance, "sh", "-c", "kill -9 $(pidof nc) 2>/dev/null; true"
        )


@pytest.fixture
def peers(
    switch: None, driver: Any, context: Any, image: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Peer]]:
    found = [Peer(driver, context, image, number) for number in (1, 2)]

    def restarted(name: str) -> None:  # the database that tells the instance is not here
        (peer,) = (peer for peer in found if guest.name(peer.instance) == name)
        driver.lifecycle.after_guest_restart(peer.instance, peer.ports)

    monkeypatch.setattr(driver.watcher, "_restarted", restarted)
    yield found
    for peer in found:
        driver.destroy(context, peer.instance, peer.ports)
    ports = run("ovs-vsctl", f"--db={REMOTE}", "list-ports", "br-int").split()
    assert not ports, "a port stays in the switch"


def reboot_from_inside(driver: Any, peer: Peer) -> None:
    """Let a guest reboot itself, wait for its new life and configure its nic again."""
    name = guest.name(peer.instance)
    before = driver.instances.state(name)["pid"]
    driver.consoles.run(name, ["reboot"], b"")
    guests.wait_for(
        lambda: driver.instances.state(name)["pid"] not in (before, 0, -1),
        "the guest's own reboot",
    )
    peer.dress()


def test_packets_pass_and_again_after_reboots(
    driver: Any, context: Any, peers: list[Peer]
) -> None:
    one, two = peers
    iface = vifs.outer_name(two.ports[0])
    ids = run("ovs-vsctl", f"--db={REMOTE}", "get", "Interface", iface, "external_ids")
    assert two.ports[0]["id"] in ids and two.ports[0]["address"] in ids
    one.reaches(two)
    for kind in ("SOFT", "HARD"):
        driver.reboot(context, two.instance, two.ports, kind)
        two.dress()
        one.reaches(two)
    reboot_from_inside(driver, two)
    one.reaches(two)


def test_killed_init_comes_back_with_a_network(
    driver: Any, context: Any, peers: list[Peer]
) -> None:
    one, two = peers
    os.kill(driver.instances.state(guest.name(two.instance))["pid"], 9)
    guests.wait_for(
        lambda: driver.instances.get(guest.name(two.instance))["status"] == "Stopped", "its end"
    )
    driver.power_on(context, two.instance, two.ports)
    two.dress()
    one.reaches(two)


def listener() -> int:
    """Return the pid of the server that listens on the unix socket."""
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(pathlib.Path(os.environ["LXD_DIR"], "unix.socket")))
        raw = visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", raw)[0]


def start_server(driver: Any) -> None:
    """Start the server again on its directory; the end of the test run ends it."""
    argv = daemon._backend_argv(os.environ["NOVA_LXD_TEST_BACKEND"])
    driver.service_states.clear()
    log = subprocess.DEVNULL
    subprocess.Popen(argv, stdin=log, stdout=log, stderr=log, cwd="/", start_new_session=True)
    guests.wait_for(lambda: True in [up for up, _ in driver.service_states], "it is back")


def kill(pid: int) -> None:
    """Kill a process and wait until it is gone."""
    os.kill(pid, 9)
    guests.wait_for(lambda: not pathlib.Path(f"/proc/{pid}/exe").exists(), f"{pid} is gone")


def test_network_outlives_the_server(driver: Any, context: Any, peers: list[Peer]) -> None:
    """The server dies and comes back: guests run on, and reboot as ever."""
    one, two = peers
    kill(listener())
    one.reaches_without_server(two)
    start_server(driver)
    one.reaches(two)
    reboot_from_inside(driver, two)
    one.reaches(two)


def test_network_after_a_restart_of_the_host(
    driver: Any, context: Any, peers: list[Peer]
) -> None:
    """Server and guests die, every link goes; the switch's database remembers its ports."""
    pids = [driver.instances.state(guest.name(peer.instance))["pid"] for peer in peers]
    kill(listener())
    for pid in pids:
        kill(pid)
    for peer in peers:
        for name in (vifs.outer_name(peer.ports[0]), vifs.inner_name(peer.ports[0])):
            subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        assert not vifs.outer_exists(peer.ports[0])
    start_server(driver)
    vifs._plugged.clear()  # nova-compute is another process then
    for peer in peers:
        assert driver.get_info(peer.instance).state == power_state.SHUTDOWN
        driver.resume_state_on_host_boot(context, peer.instance, peer.ports, None)
        peer.dress()
    peers[0].reaches(peers[1])
