# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_lxd.lxd.errors import Conflict
from nova_lxd.lxd.network.interface import HostEntry
from nova_lxd.lxd.network.leases import AUTO, HostFiles, LeaseLine, Range, allocate, read_leases

MAC = "00:16:3e:00:00:01"
OTHER = "00:16:3e:00:00:02"


def test_host_file_comes_back(tmp_path: Path) -> None:
    hosts = HostFiles(tmp_path / "hosts")
    entry = HostEntry("p_c1", "eth0.x", MAC, "c1.p", "10.0.0.5", "fd42::5")
    assert hosts.write(entry)
    assert not hosts.write(entry)
    assert hosts.find("p_c1", "eth0.x") == entry
    (hosts.directory / ".draft.new").write_text("half")
    assert hosts.entries() == [entry]
    assert (hosts.directory / "p_c1.eth0.x").read_text() == (f"{MAC},10.0.0.5,[fd42::5],c1.p\n")
    assert hosts.remove("p_c1", "eth0.x") == entry
    assert hosts.remove("p_c1", "eth0.x") is None


def test_lease_file(tmp_path: Path) -> None:
    file = tmp_path / "dnsmasq.leases"
    assert read_leases(file) == []
    file.write_text(
        f"100 {MAC} 10.0.0.5 c1 01:{MAC}\n"
        f"200 {OTHER} 10.0.0.6 * *\n"
        "duid 00:01:00:01:2a:aa:aa:aa:00:16:3e:00:00:09\n"
        f"300 1234 fd42::7 c3 00:01:00:01:2a:bb:bb:bb:{OTHER}\n"
        "400 99 fd42::8 * 00:02:00:00:ab:11\n"
    )
    found = read_leases(file)
    assert [(x.hwaddr, str(x.address), x.hostname) for x in found] == [
        (MAC, "10.0.0.5", "c1"),
        (OTHER, "10.0.0.6", ""),
        (OTHER, "fd42::7", "c3"),
        ("", "fd42::8", ""),
    ]


def lease(mac: str, address: str) -> LeaseLine:
    return LeaseLine(1, mac, ipaddress.ip_address(address), "", "*")


def test_allocation_keeps_the_lease_that_the_nic_has() -> None:
    entry = HostEntry("c1", "eth0", MAC, "c1", AUTO)
    spans = [Range.parse("10.0.0.2-10.0.0.254")]
    given_one = allocate(entry, [], [lease(MAC, "10.0.0.77")], spans, [])
    assert given_one.ipv4 == "10.0.0.77"


def test_allocation_refuses_when_full() -> None:
    entry = HostEntry("c1", "eth0", MAC, "c1", AUTO)
    spans = [Range.parse("10.0.0.2-10.0.0.3")]
    others = [HostEntry("c2", "eth0", OTHER, "c2", "10.0.0.2")]
    assert allocate(entry, others, [], spans, []).ipv4 == "10.0.0.3"
    with pytest.raises(Conflict, match="No free address"):
        allocate(entry, others, [lease(OTHER, "10.0.0.3")], spans, [])


@given(st.sets(st.integers(2, 62)), st.integers(0, 2**24 - 1))
def test_allocation_finds_what_is_free(taken: set[int], number: int) -> None:
    mac = "00:16:3e:" + number.to_bytes(3).hex(":")
    others = [HostEntry(f"c{n}", "eth0", OTHER, "", f"10.0.0.{n}") for n in taken]
    spans = [Range.parse("10.0.0.2-10.0.0.30"), Range.parse("10.0.0.31-10.0.0.62")]
    entry = HostEntry("c1", "eth0", mac, "c1", AUTO)
    if len(taken) == 61:
        return
    chosen = allocate(entry, others, [], spans, [])
    last = int(chosen.ipv4.rpartition(".")[2])
    assert 2 <= last <= 62 and last not in taken
