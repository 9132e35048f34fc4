# SPDX-License-Identifier: Apache-2.0
"""Ports as nics; what is done in which order."""

from __future__ import annotations

import socket
from typing import Any
from unittest import mock

import os_vif
import pytest
from nova import exception
from os_vif import exception as osv_exception

from nova_lxd.tests.functional.virt import world
from nova_lxd.virt import privsep, vifs


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """Record what would be done to the host."""
    recorder = mock.Mock()
    for name in ("create_veth", "silence_link", "join_links", "limit_rate", "delete_link"):
        monkeypatch.setattr(privsep, name, getattr(recorder, name))
    monkeypatch.setattr(os_vif, "plug", recorder.plug)
    monkeypatch.setattr(os_vif, "unplug", recorder.unplug)
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: 7)
    vifs._plugged.clear()
    return recorder


def order(recorder: mock.Mock) -> list[str]:
    return [call[0] for call in recorder.mock_calls]


def test_names_fit_the_kernel() -> None:
    (vif,) = world.network_info()
    assert vifs.outer_name(vif) == "tap" + vif["id"][:11]
    assert vifs.inner_name(vif) == "tin" + vif["id"][:11]
    assert len(vifs.outer_name(vif)) <= 15
    del vif["devname"]
    assert vifs.outer_name(vif) == "tap" + vif["id"][:11]


def test_nics_in_the_order_of_ports() -> None:
    ports = world.network_info(2)
    devices = vifs.nics(ports)
    assert [device["name"] for device in devices.values()] == ["eth0", "eth1"]
    first = devices[vifs.device_name(ports[0])]
    assert first["hwaddr"] == ports[0]["address"] and first["mtu"] == "1442"
    del devices[vifs.device_name(ports[0])]
    assert vifs.free_guest_name({"root": {"type": "disk"}, **devices}) == "eth0"


def test_old_pair_and_port_go_before_new_ones_come(calls: mock.Mock) -> None:
    (vif,) = world.network_info(vif_type="ovs")
    vifs.plug(world.instance("i"), vif)
    removed = ["unplug", "delete_link", "delete_link"]
    assert order(calls) == [*removed, "create_veth", "silence_link", "plug"]
    assert calls.create_veth.call_args == mock.call(
        vifs.outer_name(vif), vifs.inner_name(vif), vif["address"], 1442
    )


def test_os_vif_makes_the_port_and_no_tap(calls: mock.Mock) -> None:
    (vif,) = world.network_info(vif_type="ovs")
    vif["details"] = {"ovs_create_tap": True}
    vifs.plug(world.instance("i"), vif)
    profile = calls.plug.call_args[0][0].port_profile
    assert profile.create_port is True
    assert profile.create_tap is False


def test_failed_plug_takes_the_pair_away(calls: mock.Mock) -> None:
    calls.plug.side_effect = osv_exception.PlugException(vif="v", err="no switch")
    (vif,) = world.network_info(vif_type="ovs")
    with pytest.raises(exception.VirtualInterfacePlugException, match="no switch"):
        vifs.plug(world.instance("i"), vif)
    assert order(calls)[-1] == "delete_link"
    assert calls.delete_link.call_args_list[-2] == mock.call(vifs.outer_name(vif))


def test_rates_make_a_second_pair_and_both_go(calls: mock.Mock) -> None:
    specs = {"quota:vif_inbound_average": "100", "quota:vif_outbound_average": "200"}
    instance = world.instance("i", flavor=world.flavor(extra_specs=specs))
    (vif,) = world.network_info(vif_type="ovs")
    vifs.plug(instance, vif)
    outer, inner = vifs.outer_name(vif), vifs.inner_name(vif)
    between = ["tsw" + vif["id"][:11], "tgu" + vif["id"][:11]]
    assert calls.create_veth.call_args_list == [
        mock.call(outer, between[0], None, 1442),
        mock.call(between[1], inner, vif["address"], 1442),
    ]
    calls.join_links.assert_called_once_with(*between)
    limited = {call.args[0]: call.kwargs["average"] for call in calls.limit_rate.call_args_list}
    assert limited == {between[0]: 200, between[1]: 100}, "each end limits what it sends"
    calls.reset_mock()
    vifs.unplug(instance, vif)
    assert {call.args[0] for call in calls.delete_link.call_args_list} == {outer, between[1]}


@pytest.mark.parametrize("kind", ["binding_failed", "unbound", "vhostuser", "hw_veb"])
def test_useless_bindings_are_refused_untouched(calls: mock.Mock, kind: str) -> None:
    (vif,) = world.network_info(vif_type=kind)
    with pytest.raises(exception.VirtualInterfacePlugException, match=kind):
        vifs.plug(world.instance("i"), vif)
    assert not calls.mock_calls


def test_a_pair_made_anew_is_noticed(calls: mock.Mock, monkeypatch: Any) -> None:
    (vif,) = world.network_info(vif_type="ovs")
    vifs.plug(world.instance("i"), vif)
    assert not vifs.is_new(vif)
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: 8)
    assert vifs.is_new(vif)
    vifs.replug(world.instance("i"), vif)
    assert not vifs.is_new(vif)
    assert order(calls)[-2:] == ["unplug", "plug"], "the pair itself stays"
