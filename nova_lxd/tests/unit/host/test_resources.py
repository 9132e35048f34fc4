# SPDX-License-Identifier: Apache-2.0
"""Resources of a machine that is only files: two sockets, a GPU with virtual functions, disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from nova_lxd.lxd.host import resources

FILES = {
    "proc/sys/kernel/osrelease": "6.1.0",
    "proc/self/uid_map": "         0          0 4294967295",
    "proc/cpuinfo": (
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n"
        "flags\t: fpu hypervisor\n\n"
        "processor\t: 1\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n"
    ),
    "proc/meminfo": (
        "MemTotal: 1000 kB\nMemFree: 500 kB\nBuffers: 100 kB\nCached: 100 kB\n"
        "HugePages_Total: 4\nHugePages_Free: 1\nHugepagesize: 2048 kB\n"
    ),
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 900 kB\nNode 0 MemUsed: 450 kB\n",
    "sys/devices/system/cpu/isolated": "1",
    "sys/devices/system/cpu/cpu0/topology/physical_package_id": "0",
    "sys/devices/system/cpu/cpu0/topology/core_id": "0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000",
    "sys/devices/system/cpu/cpu0/cache/index0/level": "1",
    "sys/devices/system/cpu/cpu0/cache/index0/type": "Data",
    "sys/devices/system/cpu/cpu0/cache/index0/size": "48K",
    "sys/devices/system/cpu/cpu1/topology/physical_package_id": "1",
    "sys/devices/system/cpu/cpu1/topology/core_id": "0",
    "sys/devices/system/cpu/cpu1/online": "1",
    "sys/devices/pci0/0000:00:02.0/class": "0x030000",
    "sys/devices/pci0/0000:00:02.0/vendor": "0x8086",
    "sys/devices/pci0/0000:00:02.0/device": "0x1234",
    "sys/devices/pci0/0000:00:02.0/numa_node": "-1",
    "sys/devices/pci0/0000:00:02.0/sriov_totalvfs": "1",
    "sys/devices/pci0/0000:00:02.0/sriov_numvfs": "1",
    "sys/devices/pci0/0000:00:02.0/drm/card0/dev": "226:0",
    "sys/devices/pci0/0000:00:02.0/drm/renderD128/dev": "226:128",
    "sys/devices/pci0/0000:00:02.1/class": "0x030000",
    "sys/devices/pci0/0000:00:02.1/vendor": "0x8086",
    "sys/devices/pci0/0000:00:02.1/device": "0x1235",
    "sys/devices/pci0/0000:00:03.0/class": "0x020000",
    "sys/devices/pci0/0000:00:03.0/vendor": "0x8086",
    "sys/devices/pci0/0000:00:03.0/device": "0x10d3",
    "sys/devices/pci0/0000:00:03.0/net/eth0/type": "1",
    "sys/devices/pci0/0000:00:03.0/net/eth0/address": "02:00:00:00:00:01",
    "sys/devices/pci0/0000:00:03.0/net/eth0/carrier": "1",
    "sys/devices/pci0/0000:00:03.0/net/eth0/speed": "1000",
    "sys/devices/pci0/0000:00:03.0/net/eth0/duplex": "full",
    "sys/devices/pci0/0000:00:04.0/ata1/sda/dev": "8:0",
    "sys/devices/pci0/0000:00:04.0/ata1/sda/size": "2048",
    "sys/devices/pci0/0000:00:04.0/ata1/sda/queue/rotational": "1",
    "sys/devices/pci0/0000:00:04.0/ata1/sda/sda1/partition": "1",
    "sys/devices/pci0/0000:00:04.0/ata1/sda/sda1/size": "1024",
    "sys/devices/pci0/0000:00:04.0/ata1/target/model": "DISK",
    "sys/devices/usb1/1-1/busnum": "1",
    "sys/devices/usb1/1-1/devnum": "2",
    "sys/devices/usb1/1-1/idVendor": "1d6b",
    "sys/devices/usb1/1-1/idProduct": "0002",
    "sys/devices/usb1/1-1/speed": "1.5",
    "sys/devices/usb1/1-1/bDeviceClass": "00",
    "sys/devices/usb1/1-1/1-1:1.0/bInterfaceNumber": "00",
    "sys/devices/usb1/1-1/1-1:1.0/bInterfaceClass": "03",
    "sys/class/dmi/id/sys_vendor": "ACME",
    "sys/class/dmi/id/chassis_type": "23",
    "usr/share/misc/pci.ids": "# c\n8086  Intel\n\t1234  Graphics\n\t\t1 2  sub\nC 03  Display\n",
}
LINKS = {
    "sys/bus/pci/devices/0000:00:02.0": "../../../devices/pci0/0000:00:02.0",
    "sys/bus/pci/devices/0000:00:02.1": "../../../devices/pci0/0000:00:02.1",
    "sys/bus/pci/devices/0000:00:03.0": "../../../devices/pci0/0000:00:03.0",
    "sys/bus/usb/devices/1-1": "../../../devices/usb1/1-1",
    "sys/devices/pci0/0000:00:02.0/virtfn0": "../0000:00:02.1",
    "sys/devices/pci0/0000:00:02.1/physfn": "../0000:00:02.0",
    "sys/devices/pci0/0000:00:02.0/driver": "../../../bus/pci/drivers/i915",
    "sys/devices/pci0/0000:00:04.0/subsystem": "../../../bus/pci",
    "sys/devices/pci0/0000:00:04.0/ata1/sda/device": "../target",
    "sys/class/block/sda": "../../devices/pci0/0000:00:04.0/ata1/sda",
    "sys/class/block/sda1": "../../devices/pci0/0000:00:04.0/ata1/sda/sda1",
    "dev/disk/by-id/ata-DISK": "../../sda",
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    for name, target in LINKS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return tmp_path


def test_cpu(machine: Path) -> None:
    cpu = resources.collect(machine)["cpu"]
    assert cpu["total"] == 2
    first, second = cpu["sockets"]
    assert (first["name"], first["vendor"], first["frequency"]) == ("Xeon", "GenuineIntel", 2400)
    assert first["cache"] == [{"level": 1, "type": "Data", "size": 49152}]
    thread = {"id": 1, "numa_node": 0, "thread": 0, "online": True, "isolated": True}
    assert second["cores"] == [{"core": 0, "die": 0, "threads": [thread]}]


def test_memory(machine: Path) -> None:
    memory = resources.collect(machine)["memory"]
    assert (memory["total"], memory["used"]) == (1000 * 1024, 300 * 1024)
    assert memory["hugepages_total"] == 4 * 2048 * 1024
    assert memory["hugepages_used"] == 3 * 2048 * 1024
    assert memory["nodes"][0]["used"] == 450 * 1024


def test_gpu_with_a_virtual_function(machine: Path) -> None:
    gpu = resources.collect(machine)["gpu"]
    assert gpu["total"] == 1, "a function is listed below its card"
    card = gpu["cards"][0]
    assert (card["driver"], card["driver_version"]) == ("i915", "6.1.0")
    assert (card["vendor"], card["product"]) == ("Intel", "Graphics")
    assert card["drm"]["card_name"] == "card0" and card["drm"]["render_device"] == "226:128"
    assert card["sriov"]["vfs"][0]["pci_address"] == "0000:00:02.1"


def test_network(machine: Path) -> None:
    card = resources.collect(machine)["network"]["cards"][0]
    assert (card["vendor_id"], card["product_id"], card["numa_node"]) == ("8086", "10d3", 0)
    assert card["ports"] == [
        {
            "id": "eth0",
            "address": "02:00:00:00:00:01",
            "port": 0,
            "protocol": "ethernet",
            "auto_negotiation": False,
            "link_detected": True,
            "link_speed": 1000,
            "link_duplex": "full",
        }
    ]


def test_storage(machine: Path) -> None:
    storage = resources.collect(machine)["storage"]
    assert storage["total"] == 1
    disk = storage["disks"][0]
    assert (disk["id"], disk["size"], disk["type"], disk["model"]) == (
        "sda", 1048576, "sata", "DISK",
    )  # fmt: skip
    assert (disk["device_id"], disk["pci_address"]) == ("ata-DISK", "0000:00:04.0")
    assert [p["id"] for p in disk["partitions"]] == ["sda1"]


def test_usb_and_system(machine: Path) -> None:
    found = resources.collect(machine)
    device = found["usb"]["devices"][0]
    assert (device["bus_address"], device["device_address"], device["speed"]) == (1, 2, 1.5)
    assert device["interfaces"][0]["class_id"] == 3
    assert found["system"]["type"] == "virtual-machine"
    assert found["system"]["vendor"] == "ACME"
    assert found["system"]["chassis"]["type"] == "Rack Mount Chassis"
    (machine / "proc/self/uid_map").write_text("0 100000 65536\n")
    assert resources.collect(machine)["system"]["type"] == "container"


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = resources.collect(tmp_path)
    assert found["cpu"]["total"] == found["pci"]["total"] == found["storage"]["total"] == 0
    assert found["system"]["firmware"] is None


def test_this_machine() -> None:
    found = resources.collect()
    assert found["cpu"]["total"] >= 1
    assert 0 < found["memory"]["used"] < found["memory"]["total"]
