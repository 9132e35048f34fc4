# SPDX-License-Identifier: Apache-2.0
"""Devices cold and hot: disks, device nodes, proxies, and the verbs of `lxc config device`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nova_lxd.tests.functional.conftest import SUBNET, Launch
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for


@pytest.fixture
def share(daemon: Daemon) -> Iterator[Path]:
    """A directory of the host."""
    path = daemon.home / "share"
    path.mkdir(exist_ok=True)
    (path / "f").write_text("host\n")
    (path / "f").chmod(0o644)
    yield path
    for each in path.iterdir():
        each.unlink()


def test_add_override_set_get_list_remove(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("config", "device", "override", name, "eth0", "limits.max=10Mbit")
    assert daemon.instance(name)["devices"]["eth0"] == {
        "type": "nic",
        "name": "eth0",
        "network": "lxdbr0",
        "limits.max": "10Mbit",
    }
    assert daemon.lxc("config", "device", "get", name, "eth0", "limits.max").stdout == "10Mbit\n"
    daemon.lxc("config", "device", "set", name, "eth0", "limits.max", "20Mbit")
    daemon.lxc("config", "device", "unset", name, "eth0", "limits.max")
    assert "limits.max" not in daemon.instance(name)["devices"]["eth0"]
    assert daemon.lxc("config", "device", "list", name).stdout.split() == ["eth0"]
    daemon.lxc("config", "device", "remove", name, "eth0")
    assert daemon.instance(name)["devices"] == {}
    assert "eth0" in daemon.instance(name)["expanded_devices"]
    assert daemon.refused("config", "device", "remove", name, "eth0")
    assert daemon.refused("config", "device", "add", name, "x", "nosuch")
    assert daemon.refused("config", "device", "add", name, "x", "disk", "path=/mnt")


def test_rates_change_while_it_runs(daemon: Daemon, launch: Launch) -> None:
    name = launch("-d", "eth0,limits.ingress=1Mbit")
    link = daemon.get(f"/1.0/instances/{name}/state")["network"]["eth0"]["host_name"]

    def rate() -> str:
        return daemon.inside("tc", "class", "show", "dev", link).stdout

    assert "rate 1Mbit" in rate()
    daemon.lxc("config", "device", "set", name, "eth0", "limits.ingress=2Mbit")
    assert "rate 2Mbit" in rate()
    daemon.lxc("config", "device", "unset", name, "eth0", "limits.ingress")
    assert rate() == ""


def test_two_nics_of_one_name_are_refused(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    add = ("config", "device", "add", name)
    daemon.lxc(*add, "e1", "nic", "nictype=p2p", "name=eth1")
    assert "Duplicate NIC name" in daemon.refused(*add, "e2", "nic", "nictype=p2p", "name=eth1")
    assert "e2" not in daemon.instance(name)["devices"]


def test_none_masks_an_inherited_device(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("config", "device", "add", name, "eth0", "none")
    daemon.lxc("start", name)
    assert daemon.exec(name, "ls", "/sys/class/net").split() == ["lo"]


@pytest.mark.parametrize("hot", [False, True], ids=["cold", "hot"])
def test_host_directory(daemon: Daemon, launch: Launch, share: Path, hot: bool) -> None:
    name = launch(start=hot)
    daemon.lxc("config", "device", "add", name, "d", "disk", f"source={share}", "path=/mnt/s")
    if not hot:
        daemon.lxc("start", name)
    assert daemon.exec(name, "cat", "/mnt/s/f") == "host"
    # The host's root is nobody in there: not ours to write.
    assert daemon.exec(name, "stat", "-c", "%u", "/mnt/s/f") == "65534"
    denied = daemon.lxc("exec", name, "--", "touch", "/mnt/s/new", check=False)
    assert denied.returncode == 1
    daemon.lxc("config", "device", "remove", name, "d")
    assert daemon.exec(name, "ls", "/mnt/s", check=False) == ""
    assert (share / "f").read_text() == "host\n"


def test_shift_maps_the_owners(daemon: Daemon, launch: Launch, share: Path) -> None:
    name = launch()
    done = daemon.lxc(
        "config", "device", "add", name, "d", "disk", f"source={share}", "path=/mnt", "shift=true",
        check=False,
    )  # fmt: skip
    if daemon.backend == "lxd" and done.returncode != 0:
        pytest.skip("real LXD finds idmapped mounts unusable on this kernel")
    assert done.returncode == 0, done.stderr
    assert daemon.exec(name, "stat", "-c", "%u:%g", "/mnt/f") == "0:0"
    daemon.exec(name, "sh", "-c", "echo guest > /mnt/new")
    assert (share / "new").stat().st_uid == 0


def test_readonly(daemon: Daemon, launch: Launch, share: Path) -> None:
    name = launch("-c", "security.privileged=true")
    daemon.lxc(
        "config", "device", "add", name, "d", "disk", f"source={share}", "path=/mnt",
        "readonly=true",
    )  # fmt: skip
    done = daemon.lxc("exec", name, "--", "touch", "/mnt/new", check=False)
    assert done.returncode == 1 and "Read-only" in done.stderr


def test_single_file(daemon: Daemon, launch: Launch, share: Path) -> None:
    name = launch(start=False)
    daemon.lxc("config", "device", "add", name, "f", "disk", f"source={share}/f", "path=/etc/motd")
    daemon.lxc("start", name)
    assert daemon.exec(name, "cat", "/etc/motd") == "host"


def test_missing_source(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    assert "source" in daemon.refused(
        "config", "device", "add", name, "d", "disk", "source=/no/such", "path=/mnt"
    )
    daemon.lxc(
        "config", "device", "add", name, "d", "disk", "source=/no/such", "path=/mnt",
        "required=false",
    )  # fmt: skip
    daemon.lxc("start", name)


@pytest.mark.parametrize("hot", [False, True], ids=["cold", "hot"])
def test_unix_char(daemon: Daemon, launch: Launch, hot: bool) -> None:
    name = launch(start=hot)
    daemon.lxc(
        "config", "device", "add", name, "z", "unix-char", "source=/dev/zero", "path=/dev/zero2",
        "mode=0640", "gid=1000",
    )  # fmt: skip
    if not hot:
        daemon.lxc("start", name)
    assert daemon.exec(name, "stat", "-c", "%F %a %u:%g %t:%T", "/dev/zero2") == (
        "character special file 640 0:1000 1:5"
    )
    assert daemon.exec(name, "sh", "-c", "head -c4 /dev/zero2 | xxd -p") == "00000000"
    daemon.lxc("config", "device", "remove", name, "z")
    assert daemon.exec(name, "sh", "-c", "test -e /dev/zero2 || echo no") == "no"


@pytest.fixture
def host_node(daemon: Daemon) -> Iterator[Path]:
    """A path in a directory of its own below /dev, where nothing is yet."""
    top = Path("/dev", daemon.home.name)
    try:
        yield top / "node"
    finally:
        shutil.rmtree(top, ignore_errors=True)


def make_node(path: Path, minor: int) -> None:
    """A character device as udev makes it: zero is 5, null is 3."""
    path.parent.mkdir(exist_ok=True)
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, minor))


@pytest.mark.parametrize("hot", [False, True], ids=["cold", "hot"])
def test_optional_node_comes_and_goes(
    daemon: Daemon, launch: Launch, host_node: Path, hot: bool
) -> None:
    def inside(number: str) -> None:
        script = "stat -c %t:%T /dev/mine 2>/dev/null || echo none"
        wait_for(lambda: daemon.exec(name, "sh", "-c", script) == number, f"{number} inside")

    host_node.parent.mkdir()
    name = launch(start=hot)
    daemon.lxc(
        "config", "device", "add", name, "n", "unix-char", f"source={host_node}",
        "path=/dev/mine", "required=false",
    )  # fmt: skip
    if not hot:
        daemon.lxc("start", name)
    inside("none")
    for minor in (5, 3):
        make_node(host_node, minor)
        inside(f"1:{minor}")
        host_node.unlink()
        inside("none")
    if daemon.backend == "bundled":  # real LXD looks at a node it missed at the next start only
        daemon.stop(signal.SIGKILL)
        make_node(host_node, 5)
        daemon.start()
        inside("1:5")
        shutil.rmtree(host_node.parent)
        inside("none")
        make_node(host_node, 3)
        inside("1:3")
    daemon.lxc("config", "device", "remove", name, "n")
    inside("none")


def test_required_node_stays_when_the_hosts_goes(
    daemon: Daemon, launch: Launch, host_node: Path
) -> None:
    make_node(host_node, 5)
    name = launch()
    daemon.lxc(
        "config", "device", "add", name, "n", "unix-char", f"source={host_node}", "path=/dev/mine"
    )
    host_node.unlink()
    daemon.lxc("exec", name, "--", "sleep", "1")
    assert daemon.exec(name, "stat", "-c", "%t:%T", "/dev/mine") == "1:5"


def test_unix_block(daemon: Daemon, launch: Launch) -> None:
    image = daemon.home / "loop.img"
    image.write_bytes(b"block device!" + b"\0" * (1 << 20))
    with ExitStack() as undo:
        loop = subprocess.run(
            ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
        ).stdout.strip()
        undo.callback(subprocess.run, ["losetup", "-d", loop], check=True)
        assert stat.S_ISBLK(os.stat(loop).st_mode)
        name = launch()
        daemon.lxc(
            "config", "device", "add", name, "b", "unix-block", f"source={loop}", "path=/dev/disk0"
        )
        assert daemon.exec(name, "head", "-c13", "/dev/disk0") == "block device!"
        daemon.lxc("config", "device", "remove", name, "b")
        assert daemon.exec(name, "sh", "-c", "test -e /dev/disk0 || echo no") == "no"


def test_unix_char_without_source_is_refused(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    assert daemon.refused("config", "device", "add", name, "n", "unix-char", "path=/dev/nosuch1")
    assert daemon.instance(name)["devices"] == {}


def talk(daemon: Daemon, *argv: str) -> str:
    """What a host-side client hears."""
    return daemon.inside("timeout", "5", *argv, check=False).stdout


def serve(daemon: Daemon, name: str) -> None:
    """A guest that answers "guest" on TCP port 80."""
    daemon.exec(
        name, "sh", "-c",
        "(while :; do echo guest | nc -l -p 80; done) >/dev/null 2>&1 </dev/null &",
    )  # fmt: skip


def test_proxy_tcp_from_host_to_guest(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    serve(daemon, name)
    daemon.lxc(
        "config", "device", "add", name, "p", "proxy", "listen=tcp:127.0.0.1:8080",
        "connect=tcp:127.0.0.1:80",
    )  # fmt: skip
    wait_for(
        lambda: talk(daemon, "socat", "-u", "TCP:127.0.0.1:8080", "-") == "guest\n",
        "the guest's answer through the proxy",
    )
    daemon.lxc("config", "device", "remove", name, "p")
    assert talk(daemon, "socat", "-u", "TCP:127.0.0.1:8080", "-") == ""


def test_proxy_survives_a_restart_of_the_guest(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc(
        "config", "device", "add", name, "p", "proxy", "listen=tcp:127.0.0.1:8081",
        "connect=tcp:127.0.0.1:80",
    )  # fmt: skip
    for _ in range(2):
        daemon.lxc("start", name)
        serve(daemon, name)
        wait_for(
            lambda: talk(daemon, "socat", "-u", "TCP:127.0.0.1:8081", "-") == "guest\n",
            "the guest's answer",
        )
        daemon.lxc("stop", "-f", name)
        assert "8081" not in daemon.inside("ss", "-ltn").stdout


def test_proxy_from_guest_to_host(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    server = daemon.sandbox.popen(
        ["socat", "TCP-LISTEN:9000,bind=127.0.0.1,fork,reuseaddr", "SYSTEM:echo host"]
    )
    try:
        daemon.lxc(
            "config", "device", "add", name, "p", "proxy", "bind=instance",
            "listen=tcp:127.0.0.1:7000", "connect=tcp:127.0.0.1:9000",
        )  # fmt: skip
        wait_for(
            lambda: (
                daemon.exec(name, "sh", "-c", "nc 127.0.0.1 7000 </dev/null", check=False)
                == "host"
            ),
            "the host's answer in the guest",
        )
    finally:
        server.terminate()
        daemon.inside("pkill", "-f", "TCP-LISTEN:9000", check=False)
        server.wait(timeout=10)


def test_proxy_unix_socket(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    serve(daemon, name)
    path = daemon.home / "p.sock"
    daemon.lxc(
        "config", "device", "add", name, "u", "proxy", f"listen=unix:{path}",
        "connect=tcp:127.0.0.1:80", "mode=0660",
    )  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o660

    def hear() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            return client.recv(100)

    wait_for(lambda: hear() == b"guest\n", "the guest's answer through the unix socket")
    daemon.lxc("config", "device", "remove", name, "u")
    if daemon.backend == "bundled":
        # Real LXD leaves the socket's file behind.
        assert not path.exists()


def test_proxy_udp_from_guest_to_host(daemon: Daemon, launch: Launch) -> None:
    """The bridge's name server answers on the guest's own loopback."""
    name = launch()
    daemon.lxc(
        "config", "device", "add", name, "p", "proxy", "bind=instance",
        "listen=udp:127.0.0.1:53", f"connect=udp:{SUBNET}.1:53",
    )  # fmt: skip
    wait_for(
        lambda: (
            f"Address: {SUBNET}.1"
            in daemon.exec(name, "nslookup", "_gateway.lxd", "127.0.0.1", check=False)
        ),
        "the answer through UDP",
        interval=0.5,
    )


def test_proxy_nat(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc("config", "device", "override", name, "eth0", "ipv4.address=10.77.0.150")
    daemon.lxc(
        "config", "device", "add", name, "p", "proxy", "nat=true",
        "listen=tcp:10.77.0.1:8088", "connect=tcp:10.77.0.150:80",
    )  # fmt: skip
    daemon.lxc("start", name)
    assert daemon.ipv4(name) == "10.77.0.150"
    rules = daemon.inside("nft", "list", "ruleset").stdout
    assert "dnat" in rules and "10.77.0.150" in rules and "8088" in rules
    daemon.lxc("stop", "-f", name)
    assert "8088" not in daemon.inside("nft", "list", "ruleset").stdout


@pytest.mark.parametrize(
    "options",
    [
        ("listen=tcp:127.0.0.1:80",),
        ("listen=sctp:127.0.0.1:80", "connect=tcp:127.0.0.1:80"),
        ("listen=tcp:127.0.0.1:80", "connect=tcp:127.0.0.1:80", "bind=moon"),
    ],
)
def test_bad_proxies(daemon: Daemon, launch: Launch, options: tuple[str, ...]) -> None:
    name = launch(start=False)
    assert daemon.refused("config", "device", "add", name, "p", "proxy", *options)
    assert daemon.instance(name)["devices"] == {}


def test_proxy_on_a_taken_address_names_device_and_address(
    daemon: Daemon, launch: Launch
) -> None:
    name = launch()
    add = ("config", "device", "add", name)
    daemon.lxc(*add, "p1", "proxy", "listen=tcp:127.0.0.1:7071", "connect=tcp:127.0.0.1:80")
    said = daemon.refused(
        *add, "p2", "proxy", "listen=tcp:127.0.0.1:7071", "connect=tcp:127.0.0.1:81"
    )
    assert 'Failed to start device "p2"' in said
    if daemon.backend == "bundled":  # LXD cannot always say why
        assert "tcp:127.0.0.1:7071" in said and "Address already in use" in said
    assert "p2" not in daemon.instance(name)["devices"]


def test_impossible_ports_are_refused(daemon: Daemon, launch: Launch) -> None:
    if daemon.backend == "lxd":
        pytest.skip("real LXD finds out when it starts the proxy")
    name = launch(start=False)
    for listen, connect in (("99999", "80"), ("80-85", "80-83"), ("0", "80"), ("90-80", "80")):
        options = (f"listen=tcp:127.0.0.1:{listen}", f"connect=tcp:127.0.0.1:{connect}")
        assert daemon.refused("config", "device", "add", name, "p", "proxy", *options)
    assert daemon.instance(name)["devices"] == {}


def test_a_device_that_fails_undoes_the_others(daemon: Daemon, launch: Launch) -> None:
    name = launch(start=False)
    daemon.lxc(
        "config", "device", "add", name, "p1", "proxy", "listen=tcp:127.0.0.1:8090",
        "connect=tcp:127.0.0.1:80",
    )  # fmt: skip
    daemon.lxc("config", "device", "add", name, "n1", "nic", "nictype=macvlan", "parent=nosuch0")
    assert daemon.refused("start", name)
    assert daemon.status(name) == "Stopped"
    assert "8090" not in daemon.inside("ss", "-ltn").stdout
    assert "veth" not in daemon.inside("ip", "-o", "link").stdout
    daemon.lxc("config", "device", "remove", name, "n1")
    daemon.lxc("start", name)
    assert "8090" in daemon.inside("ss", "-ltn").stdout
