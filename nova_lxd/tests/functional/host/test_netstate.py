# SPDX-License-Identifier: Apache-2.0
"""Interfaces of real containers, read and moved by netlink."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator

import pytest

from nova_lxd.lxd.host import netstate
from nova_lxd.lxd.host.run import run
from nova_lxd.lxd.network import links
from nova_lxd.tests.functional.host.conftest import Lab


@pytest.fixture
def veth() -> Iterator[tuple[str, str]]:
    """A pair of interfaces on the host."""
    if os.geteuid() != 0:
        pytest.skip("making interfaces needs root")
    outer, inner = "veth" + secrets.token_hex(4), "veth" + secrets.token_hex(4)
    run(["ip", "link", "add", outer, "type", "veth", "peer", "name", inner])
    yield outer, inner
    if outer in netstate.of_host():
        run(["ip", "link", "delete", outer])


def test_empty_container_has_a_loopback(lab: Lab) -> None:
    state = netstate.of_process(lab.start("c1").init)
    assert list(state) == ["lo"]
    assert state["lo"].type == "loopback"


def test_a_nic_moves_in_and_back(lab: Lab, veth: tuple[str, str]) -> None:
    outer, inner = veth
    running = lab.start("c1")
    run(["ip", "link", "set", inner, "address", "00:16:3e:01:02:03", "mtu", "1400"])
    links.move_in(inner, running.init, "eth0")
    assert inner not in netstate.of_host()
    lab.exec("c1", "ip", "link", "set", "eth0", "up")
    lab.exec("c1", "ip", "addr", "add", "10.9.8.7/24", "dev", "eth0")
    nic = netstate.of_process(running.init)["eth0"]
    assert (nic.hwaddr, nic.mtu, nic.state, nic.type) == (
        "00:16:3e:01:02:03", 1400, "up", "broadcast",
    )  # fmt: skip
    assert nic.host_index == netstate.of_host()[outer].index
    assert netstate.AddressState("inet", "10.9.8.7", "24", "global") in nic.addresses
    assert links.take_back(running.init, "eth0", inner)
    assert inner in netstate.of_host()
    assert list(netstate.of_process(running.init)) == ["lo"]


def test_errors_are_told_by_number(lab: Lab, veth: tuple[str, str]) -> None:
    running = lab.start("c1")
    with pytest.raises(OSError) as error:
        links.move_in("nonesuch0", running.init, "eth0")
    assert error.value.errno == errno.ENODEV
    with pytest.raises(OSError) as error:
        links.move_in(veth[1], running.init, "lo")
    assert error.value.errno == errno.EEXIST
    running.kill()
    with pytest.raises(ProcessLookupError):
        netstate.of_process(running.init)


def test_the_thread_stays_in_its_namespace_and_is_quick(lab: Lab) -> None:
    running = lab.start("c1")
    before = os.readlink("/proc/thread-self/ns/net")
    started = time.perf_counter()
    for _ in range(100):
        netstate.of_process(running.init)
    assert (time.perf_counter() - started) / 100 < 0.01
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_counters(lab: Lab) -> None:
    running = lab.start("c1")
    lab.exec("c1", "ip", "link", "set", "lo", "up")
    lab.exec("c1", "busybox", "ping", "-c", "2", "-i", "0.1", "127.0.0.1")
    counters = netstate.of_process(running.init)["lo"].counters
    assert counters.packets_sent >= 4
    assert counters.bytes_sent == counters.bytes_received > 0
