# SPDX-License-Identifier: Apache-2.0
"""What devices accept and refuse, in LXD's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from nova_lxd.lxd.devices import load
from nova_lxd.lxd.devices.interface import CustomVolume, Host, InstanceView
from nova_lxd.lxd.devices.nic_bridged import BridgedNic
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.network.bridge import Bridge
from nova_lxd.lxd.paths import Paths
from nova_lxd.tests.unit.devices.fakes import FakeVolumes, make_host, view

NIC = {"type": "nic", "network": "lxdbr0"}
DISK = {"type": "disk", "source": "/etc", "path": "/mnt"}
PROXY = {"type": "proxy", "listen": "tcp:127.0.0.1:80", "connect": "tcp:127.0.0.1:81"}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    bridge = Bridge(
        Paths(tmp_path), "lxdbr0", {"ipv4.address": "10.0.0.1/24", "ipv6.address": "fd42::1/64"}
    )
    made = make_host(tmp_path, bridge)
    assert isinstance(made.volumes, FakeVolumes)
    made.volumes.volumes["default", "default", "vol"] = CustomVolume(tmp_path)
    made.volumes.volumes["default", "default", "blk"] = CustomVolume(
        tmp_path, content_type="block"
    )
    return made


def check(config: Mapping[str, str], host: Host, instance: InstanceView | None = None) -> None:
    load.load("dev", config, instance or view({"dev": config}), host).validate()


GOOD = [
    NIC,
    NIC | {"ipv4.address": "10.0.0.9", "security.mac_filtering": "true"},
    NIC | {"hwaddr": "00:16:3e:01:02:03", "name": "eth7", "limits.max": "10Mbit"},
    {"type": "nic", "nictype": "bridged", "parent": "br0"},
    {"type": "nic", "nictype": "p2p", "host_name": "tap01234567-89", "mtu": "1450"},
    {"type": "nic", "nictype": "macvlan", "parent": "eth0"},
    {"type": "nic", "nictype": "physical", "parent": "eth0", "vlan": "12"},
    {"type": "nic", "nictype": "routed", "ipv4.address": "192.0.2.3, 192.0.2.4"},
    {"type": "nic", "nictype": "p2p", "user.note": "mine"},
    DISK,
    DISK | {"readonly": "true", "shift": "true", "limits.read": "10MB", "limits.write": "20iops"},
    DISK | {"propagation": "rslave", "recursive": "true"},
    {"type": "disk", "path": "/", "pool": "default", "size": "10GiB"},
    {"type": "disk", "path": "/v", "pool": "default", "source": "vol"},
    {"type": "disk", "path": "/v", "source": "/no/such", "required": "false"},
    {"type": "unix-char", "source": "/dev/null"},
    {"type": "unix-char", "path": "/dev/x", "major": "10", "minor": "200", "mode": "0600"},
    {"type": "unix-block", "source": "/dev/no-such", "required": "false"},
    {"type": "gpu"},
    {"type": "gpu", "gputype": "physical", "pci": "0000:01:00.0"},
    PROXY,
    PROXY | {"listen": "tcp:[::]:80-90,100", "connect": "tcp:[::1]:80"},
    PROXY | {"listen": "unix:/run/a.sock", "uid": "5", "mode": "0660"},
    PROXY | {"listen": "unix:@abstract", "bind": "guest"},
    PROXY | {"listen": "tcp:192.0.2.1:80", "connect": "tcp:0.0.0.0:80", "nat": "true"},
    {"type": "none"},
]

BAD = [
    ({}, "Missing device type"),
    ({"type": "toaster"}, 'Unsupported device type "toaster"'),
    ({"type": "usb"}, "Unsupported device type: usb"),
    ({"type": "tpm"}, "Unsupported device type: tpm"),
    ({"type": "pci"}, "Unsupported device type: pci"),
    ({"type": "infiniband"}, "Unsupported device type: infiniband"),
    ({"type": "nic"}, 'Invalid value for device option "nictype": Required value'),
    ({"type": "nic", "nictype": "sriov"}, 'Unsupported nic type "sriov"'),
    (NIC | {"nope": "1"}, 'Invalid device option "nope"'),
    (NIC | {"hwaddr": "1:2"}, "Invalid MAC address, must be 6 bytes of hex separated by colons"),
    (NIC | {"name": "e"}, "too short"),
    (NIC | {"name": "a" * 16}, "too long"),
    (NIC | {"name": "a/b"}, "invalid characters"),
    (NIC | {"limits.ingress": "fast"}, 'Invalid value for device option "limits.ingress"'),
    (NIC | {"mtu": "100"}, "Out of MTU range"),
    (NIC | {"mtu": "1400"}, 'Cannot use "mtu" property in conjunction with "network" property'),
    (NIC | {"ipv4.address": "10.9.9.9"}, "not within network"),
    (NIC | {"ipv6.address": "fd42::5"}, "ipv6.dhcp.stateful"),
    ({"type": "nic", "network": "gone"}, 'Error loading network config for "gone"'),
    ({"type": "nic", "nictype": "bridged"}, '"parent": Required value'),
    ({"type": "nic", "nictype": "macvlan"}, '"parent": Required value'),
    (
        {"type": "nic", "nictype": "bridged", "parent": "br0", "ipv4.address": "10.0.0.9"},
        "unmanaged parent",
    ),
    (
        {"type": "nic", "nictype": "routed", "ipv4.address": "192.0.2.3,192.0.2.3"},
        'Duplicate address "192.0.2.3"',
    ),
    (
        {"type": "nic", "nictype": "routed", "ipv4.routes": "10.5.0.0/24"},
        "ipv4.routes requires ipv4.address to be set",
    ),
    ({"type": "nic", "nictype": "p2p", "ipv4.routes": "10.5.0.1/24"}, "Not an IPv4 network addr"),
    ({"type": "disk", "path": "/mnt"}, 'missing the required "source" property'),
    ({"type": "disk", "source": "/etc"}, 'missing the required "path" property'),
    ({"type": "disk", "path": "/"}, 'must have a "pool" property'),
    ({"type": "disk", "path": "/", "pool": "nope"}, 'Failed to get storage pool "nope"'),
    (
        {"type": "disk", "path": "/", "source": "/etc", "pool": "default"},
        'may not have a "source" property',
    ),
    (DISK | {"size": "1GiB"}, "Only the root disk may have a size quota"),
    (DISK | {"source": "etc"}, "Source path must be absolute for local sources"),
    (DISK | {"source": "/no/such"}, 'Missing source path "/no/such" for disk "dev"'),
    (DISK | {"path": "/mnt/../../etc"}, "leads out of the instance"),
    (DISK | {"recursive": "true", "readonly": "true"}, "Recursive read-only"),
    (DISK | {"required": "true", "optional": "false"}, 'Cannot use both "required" and'),
    (DISK | {"propagation": "sideways"}, 'Invalid value "sideways"'),
    (DISK | {"limits.read": "xiops"}, "Invalid value for an integer"),
    (DISK | {"source": "cloud-init:config"}, "only supported by virtual machines"),
    (DISK | {"source": "ceph:pool/x"}, "ceph"),
    (DISK | {"source": "/e\0tc"}, "NUL"),
    (DISK | {"pool": "default", "source": "gone"}, "Failed loading custom volume"),
    (DISK | {"pool": "default", "source": "blk"}, "Custom block volumes"),
    (DISK | {"pool": "default", "source": "vol", "shift": "true"}, 'The "shift" property'),
    (DISK | {"pool": "default", "source": "/etc"}, "cannot be specified as absolute paths"),
    ({"type": "unix-char"}, 'missing the required "source" or "path" property'),
    ({"type": "unix-char", "source": "/etc/passwd"}, "no device node"),
    ({"type": "unix-block", "source": "/dev/null"}, "not a block device"),
    ({"type": "unix-char", "source": "/dev/no-such"}, "doesn't exist"),
    ({"type": "unix-char", "source": "dev/null"}, "Path must be absolute"),
    ({"type": "unix-char", "path": "/dev/x", "major": "10"}, '"major" and "minor"'),
    ({"type": "unix-char", "source": "/dev/null", "mode": "999"}, "octal"),
    ({"type": "gpu", "gputype": "mdev"}, "Unsupported GPU type"),
    ({"type": "gpu", "pci": "01:00.0", "id": "1"}, 'Cannot use "id" when "pci" is set'),
    (PROXY | {"listen": ""}, '"listen": Required value'),
    (PROXY | {"listen": "http:127.0.0.1:80"}, 'Unknown connection type "http"'),
    (PROXY | {"listen": "tcp:host:80"}, 'Not an IP address "host"'),
    (PROXY | {"listen": "tcp:127.0.0.1:99999"}, "Invalid port number"),
    (PROXY | {"listen": "tcp:127.0.0.1:90-80"}, "must be lower than"),
    (PROXY | {"listen": "unix:relative"}, "must be absolute"),
    (PROXY | {"listen": "unix:@"}, "a path or @name is missing"),
    (PROXY | {"listen": "unix:/" + "x" * 107}, "longer than 107 bytes"),
    (PROXY | {"listen": "tcp:127.0.0.1:80\n"}, "Invalid port number"),
    (PROXY | {"listen": "tcp:127.0.0.1:1-2-3"}, "Invalid port number"),
    (PROXY | {"listen": "tcp:127.0.0.1:80,,81"}, "Invalid port number"),
    (PROXY | {"listen": "tcp:127.0.0.1:99999999999999999999"}, "Invalid port number"),
    (PROXY | {"listen": " tcp:127.0.0.1:80"}, "Unknown connection type"),
    (PROXY | {"listen": "tcp:localhost:80"}, "Not an IP address"),
    (PROXY | {"connect": "tcp:127.0.0.1:1-2"}, "Mismatch between listen port"),
    (PROXY | {"uid": "5"}, "Only proxy devices for non-abstract unix sockets"),
    (PROXY | {"connect": "udp:127.0.0.1:5", "proxy_protocol": "true"}, "PROXY header"),
    (PROXY | {"nat": "true", "bind": "guest"}, "Only host-bound proxies can use NAT"),
    (PROXY | {"nat": "true", "listen": "tcp:0.0.0.0:80"}, "Cannot listen on wildcard address"),
    (PROXY | {"nat": "true", "connect": "unix:/a"}, "is not supported when using NAT"),
    (PROXY | {"nat": "true", "connect": "tcp:[::1]:80"}, "Cannot mix IP versions"),
    (PROXY | {"bind": "moon"}, 'Invalid value "moon"'),
    ({"type": "none", "x": "y"}, 'Invalid device option "x"'),
]


@pytest.mark.parametrize("config", GOOD, ids=str)
def test_good(config: dict[str, str], host: Host) -> None:
    check(config, host)


@pytest.mark.parametrize(("config", "said"), BAD, ids=str)
def test_bad(config: dict[str, str], said: str, host: Host) -> None:
    with pytest.raises(BadRequest) as caught:
        check(config, host)
    assert said in caught.value.message


def test_profile_may_name_what_is_not_there(host: Host) -> None:
    for config in (
        DISK | {"source": "/no/such"},
        DISK | {"pool": "nope", "source": "gone"},
        NIC | {"ipv4.address": "192.0.2.1"},
    ):
        check(config, host, view({"dev": config}, name=""))


def test_two_disks_at_one_path(host: Host) -> None:
    devices = {"a": DISK, "b": DISK}
    with pytest.raises(BadRequest, match='More than one disk device uses the same path "/mnt"'):
        load.validate_all(devices, view(devices), host)


def test_the_device_is_named(host: Host) -> None:
    devices = {"ok": {"type": "none"}, "wrong": {"type": "usb"}}
    with pytest.raises(BadRequest, match='failed for "wrong": Unsupported'):
        load.validate_all(devices, view(devices), host)


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 65, "a\0"])
def test_device_names(name: str, host: Host) -> None:
    with pytest.raises(BadRequest, match="Invalid device name"):
        load.load(name, {"type": "none"}, view(), host)


def test_network_decides_the_kind_of_nic(host: Host) -> None:
    assert isinstance(load.load("eth0", NIC, view(), host), BridgedNic)


def test_start_order_puts_outer_disks_first() -> None:
    devices = {
        "inner": DISK | {"path": "/mnt/x/y"},
        "outer": DISK | {"path": "/mnt/x"},
        "root": {"type": "disk", "path": "/", "pool": "default"},
        "px": PROXY,
        "eth0": NIC,
    }
    assert load.start_order(devices) == ["eth0", "root", "outer", "inner", "px"]


def test_unnamed_nics_get_different_names(host: Host) -> None:
    p2p = {"type": "nic", "nictype": "p2p"}
    devices = {"a": p2p, "b": p2p | {"name": "eth0"}, "c": p2p, "d": p2p}
    instance = view(devices, config={"volatile.d.name": "eth2"})
    names = {n: load.load(n, c, instance, host).inner_name() for n, c in devices.items()}
    assert names == {"a": "eth1", "b": "eth0", "c": "eth3", "d": "eth2"}
