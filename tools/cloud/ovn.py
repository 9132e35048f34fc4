# SPDX-License-Identifier: Apache-2.0
"""OVN and Open vSwitch: databases, northd, and per compute host a switch and a controller.

Nothing of Debian's own services is used: every daemon gets its directories by environment.
Without the openvswitch kernel module the userspace datapath does the same work over taps.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from cloud.context import Cloud
from cloud.errors import CloudError
from cloud.host import boot_id
from cloud.layout import BRIDGES, EXTERNAL_BRIDGE, INTEGRATION_BRIDGE
from cloud.run import run
from cloud.services import Probe, Service
from cloud.settings import LOOPBACK, HostRecord
from cloud.steps import Step

PHYSICAL_NETWORK = "public"
OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
OVN_SCHEMAS = Path("/usr/share/ovn")
OVSDB_SERVER = "ovsdb-server"
USERSPACE_DATAPATH = "ovs-netdev"
DEVICES = Path("/sys/class/net")


def kernel_datapath() -> bool:
    """Whether this kernel has the openvswitch module, loaded or loadable."""
    if Path("/sys/module/openvswitch").exists():
        return True
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin")
    release = Path("/proc/sys/kernel/osrelease").read_text().strip()
    if modprobe is None or not list(Path("/lib/modules", release).glob("**/openvswitch.ko*")):
        return False
    run((modprobe, "openvswitch"), log=Path("/dev/null"))
    return True


def datapath_type() -> str:
    return "system" if kernel_datapath() else "netdev"


def home(cloud: Cloud, host: HostRecord) -> Path:
    """Where the switch of ``host`` keeps its database and sockets."""
    return cloud.data("ovn" if host is cloud.first_host else f"ovn-{host.name}")


def environment(directory: Path) -> dict[str, str]:
    """Every directory that the OVS and OVN programs have compiled in, moved to ``directory``."""
    kinds = ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")
    return {f"{family}_{kind}": str(directory) for family in ("OVS", "OVN") for kind in kinds}


def database(cloud: Cloud, name: str, directory: Path, schema: Path, port: str,
             env: dict[str, str]) -> Service:
    """An ovsdb-server of one database, on a unix socket and a loopback port."""
    path = directory / f"{name}.db"
    if not path.exists():
        run(("ovsdb-tool", "create", path, schema), log=cloud.log("step-ovn"))
    socket = directory / ("db.sock" if name == "conf" else f"{name}.sock")
    return Service(
        name="", argv=(
            shutil.which(OVSDB_SERVER) or f"/usr/sbin/{OVSDB_SERVER}", str(path), "-vconsole:warn",
            "--no-chdir", f"--unixctl={directory / (name + '.ctl')}", f"--remote=punix:{socket}",
            f"--remote=ptcp:{cloud.port(port)}:{LOOPBACK}",
        ),
        log="", probe=Probe("unix", str(socket)), env=env,
    )


def northbound(cloud: Cloud, kind: str) -> Service:
    """The northbound (nb) or southbound (sb) database of the cloud."""
    directory = cloud.data("ovn")
    name = f"ovn-{kind}"
    service = database(cloud, kind, directory, OVN_SCHEMAS / f"ovn-{kind}.ovsschema", name,
                       environment(directory))
    return named(cloud, service, name)


def named(cloud: Cloud, service: Service, name: str) -> Service:
    return Service(**{**service.__dict__, "name": name, "log": str(cloud.log(name))})


def northd(cloud: Cloud) -> Service:
    directory = cloud.data("ovn")
    return Service(
        name="ovn-northd", argv=(
            shutil.which("ovn-northd") or "/usr/bin/ovn-northd", "--no-chdir", "-vconsole:warn",
            f"--ovnnb-db=tcp:{cloud.address('ovn-nb')}",
            f"--ovnsb-db=tcp:{cloud.address('ovn-sb')}",
            f"--unixctl={directory / 'northd.ctl'}",
        ),
        log=str(cloud.log("ovn-northd")), env=environment(directory),
        probe=Probe("file", str(directory / "northd.ctl")),
    )


def vsctl(cloud: Cloud, host: HostRecord, *words: str) -> str:
    directory = home(cloud, host)
    return run(("ovs-vsctl", f"--db=unix:{directory / 'db.sock'}", "--timeout=30", *words),
               log=cloud.log("step-ovn"), env=environment(directory))


def switch_database(cloud: Cloud, host: HostRecord) -> Service:
    directory = home(cloud, host)
    service = database(cloud, "conf", directory, OVS_SCHEMA, "ovsdb", environment(directory))
    service = Service(**{**service.__dict__, "enter": cloud.enter(host)})
    return named(cloud, service, cloud.on(host, "ovsdb"))


def chassis(cloud: Cloud, host: HostRecord) -> None:
    """What the switch must know before it starts: who it is, and where the cloud is."""
    vsctl(cloud, host, "--no-wait", "init")
    identity = {
        "system-id": host.name, "hostname": host.name,
        "ovn-remote": f"tcp:{cloud.address('ovn-sb')}", "ovn-encap-type": "geneve",
        "ovn-encap-ip": host.address, "ovn-bridge": INTEGRATION_BRIDGE,
        "ovn-bridge-datapath-type": datapath_type(),
    }
    if host is cloud.first_host:
        identity["ovn-cms-options"] = "enable-chassis-as-gw"
        identity["ovn-bridge-mappings"] = f"{PHYSICAL_NETWORK}:{EXTERNAL_BRIDGE}"
    words = [f"external_ids:{name}={value}" for name, value in identity.items()]
    if datapath_type() == "netdev":
        # Without it the switch drops TCP whose checksum the sender left to hardware.
        words.append("other_config:userspace-tso-enable=true")
    vsctl(cloud, host, "--no-wait", "set", "Open_vSwitch", ".", *words)


def switch(cloud: Cloud, host: HostRecord) -> Service:
    directory = home(cloud, host)
    name = cloud.on(host, "ovs-vswitchd")
    return Service(
        name=name, argv=(
            shutil.which("ovs-vswitchd") or "/usr/sbin/ovs-vswitchd",
            f"unix:{directory / 'db.sock'}", "--no-chdir", "-vconsole:warn",
            f"--unixctl={directory / 'vswitchd.ctl'}",
        ),
        log=str(cloud.log(name)), env=environment(directory), enter=cloud.enter(host),
        probe=Probe("unix", str(directory / "vswitchd.ctl")),
    )


def controller(cloud: Cloud, host: HostRecord) -> Service:
    directory = home(cloud, host)
    name = cloud.on(host, "ovn-controller")
    return Service(
        name=name, argv=(
            shutil.which("ovn-controller") or "/usr/bin/ovn-controller",
            f"unix:{directory / 'db.sock'}", "--no-chdir", "-vconsole:warn",
        ),
        log=str(cloud.log(name)), env=environment(directory), enter=cloud.enter(host),
        probe=Probe("alive", "0.5"),
    )


def initialise_databases(cloud: Cloud) -> None:
    directory = cloud.data("ovn")
    for program, kind in (("ovn-nbctl", "nb"), ("ovn-sbctl", "sb")):
        run((program, f"--db=unix:{directory / kind}.sock", "--no-leader-only", "init"),
            log=cloud.log("step-ovn"), env=environment(directory), timeout=60)


def refuse_foreign_bridges(cloud: Cloud) -> bool:
    """Another Open vSwitch of this machine must not be disturbed: stop if it has our names."""
    if owns_bridges(cloud):
        return False
    for name in (INTEGRATION_BRIDGE, EXTERNAL_BRIDGE, USERSPACE_DATAPATH):
        if (DEVICES / name).exists():
            raise CloudError(
                f"a network device named {name} is here already, and it is not this cloud's.",
                remedy="another Open vSwitch or cloud runs on this machine: stop it, or use a "
                       "machine of its own for this cloud",
            )
    (cloud.layout.run / "bridges").write_text(boot_id())
    return True


def owns_bridges(cloud: Cloud) -> bool:
    """Are bridges of our names, if there are any, this cloud's, made since the machine booted?"""
    mark = cloud.layout.run / "bridges"
    return mark.is_file() and mark.read_text() == boot_id()


def bridges_left(cloud: Cloud) -> list[str]:
    """The network devices of this cloud's switch that are there."""
    return [name for name in BRIDGES if owns_bridges(cloud) and (DEVICES / name).exists()]


def remove_datapath(cloud: Cloud, host: HostRecord) -> None:
    """Remove the devices that a stopped switch leaves: its bridges, and the datapath itself."""
    log = cloud.log("step-ovn")
    inside = cloud.enter(host)
    if datapath_type() == "system":
        if "ovs-system" in run((*inside, "ovs-dpctl", "dump-dps"), log=log):
            run((*inside, "ovs-dpctl", "del-dp", "ovs-system"), log=log)
        return
    links = json.loads(run((*inside, "ip", "-json", "link", "show"), log=log))
    for link in links:
        if link["ifname"] in (*BRIDGES, USERSPACE_DATAPATH):
            run((*inside, "ip", "link", "delete", link["ifname"]), log=log)


def external_bridge(cloud: Cloud) -> None:
    """Make the bridge of the external network; the machine itself is its gateway."""
    host = cloud.first_host
    vsctl(cloud, host, "--may-exist", "add-br", EXTERNAL_BRIDGE, "--",
          "set", "bridge", EXTERNAL_BRIDGE, f"datapath_type={datapath_type()}")
    network, _, prefix = cloud.settings.external_subnet.partition("/")
    gateway = f"{network.rpartition('.')[0]}.1/{prefix}"
    give_address(cloud, host, EXTERNAL_BRIDGE, gateway)


def give_address(cloud: Cloud, host: HostRecord, bridge: str, address: str) -> None:
    """Bring a bridge up with an address of the host on it.

    After a restart the bridge is in the switch's database before its device is there.
    """
    log = cloud.log("step-ovn")
    enter = cloud.enter(host)
    deadline = time.monotonic() + 30
    while bridge not in run((*enter, "ip", "-brief", "link", "show"), log=log).split():
        if time.monotonic() > deadline:
            raise CloudError(f"the switch did not make the bridge {bridge} within 30 seconds.",
                             log=cloud.log(cloud.on(host, "ovs-vswitchd")))
        time.sleep(0.2)
    run((*enter, "ip", "address", "replace", address, "dev", bridge), log=log)
    run((*enter, "ip", "link", "set", bridge, "up"), log=log)
    if datapath_type() == "netdev":
        # Segments of the machine's own TCP would be lost in the switch's address translation.
        run((*enter, "ethtool", "-K", bridge, "tx", "off", "tso", "off", "gso", "off"), log=log)


def host_needs(host: HostRecord) -> tuple[str, ...]:
    """The steps that make an added host itself."""
    return (f"hosts/namespaces {host.name}",) if host.namespace else ()


def host_steps(cloud: Cloud, host: HostRecord) -> list[Step]:
    """The switch of one compute host."""
    def name(step: str) -> str:
        return cloud.on(host, step)

    return [
        cloud.start(name("ovsdb"), lambda: switch_database(cloud, host), "packages",
                    "network/check", *host_needs(host)),
        Step(name("network/chassis"), lambda: chassis(cloud, host),
             needs=(f"start {name('ovsdb')}",)),
        cloud.start(name("ovs-vswitchd"), lambda: switch(cloud, host), name("network/chassis")),
        cloud.start(name("ovn-controller"), lambda: controller(cloud, host),
                    f"start {name('ovs-vswitchd')}", "network/databases"),
    ]


def steps(cloud: Cloud) -> list[Step]:
    return [
        Step("network/check", lambda: refuse_foreign_bridges(cloud), needs=("packages",)),
        cloud.start("ovn-nb", lambda: northbound(cloud, "nb"), "packages"),
        cloud.start("ovn-sb", lambda: northbound(cloud, "sb"), "packages"),
        Step("network/databases", lambda: initialise_databases(cloud),
             needs=("start ovn-nb", "start ovn-sb")),
        cloud.start("ovn-northd", lambda: northd(cloud), "network/databases"),
        Step("network/external bridge", lambda: external_bridge(cloud),
             needs=("start ovs-vswitchd",)),
        *(step for host in cloud.settings.hosts for step in host_steps(cloud, host)),
    ]
