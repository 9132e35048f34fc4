# SPDX-License-Identifier: Apache-2.0
"""Nova: API, metadata, conductor, scheduler, serial proxy, and one nova-compute per host."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from cloud import lxd, wsgi
from cloud.context import REGION, Cloud, Section
from cloud.errors import CloudError
from cloud.ini import write
from cloud.rest import Rest
from cloud.services import Probe, Service
from cloud.settings import LOOPBACK, HostRecord
from cloud.steps import Step

DRIVERS = {"lxd": "lxd.LXDDriver", "fake": "fake.FakeDriverWithoutFakeNodes"}
# Builds and snapshots share one pool; nova warns when the two numbers differ.
LONG_TASKS = 10


def shared(cloud: Cloud, state: Path) -> dict[str, Section]:
    """Sections that the control services and nova-compute have in common."""
    serial = {
        "enabled": True, "serialproxy_host": LOOPBACK,
        "serialproxy_port": cloud.port("serialproxy"),
        "base_url": f"ws://{cloud.address('serialproxy')}/",
    }
    sections: dict[str, Section] = {
        "DEFAULT": {
            "state_path": str(state), "my_ip": LOOPBACK, "transport_url": cloud.transport_url,
            "use_stderr": True, "log_date_format": "%Y-%m-%d %H:%M:%S",
            # One host is enough to resize: the server may stay where it is.
            "allow_resize_to_same_host": True,
        },
        "service_user": cloud.service_user("nova"),
        "placement": cloud.auth("placement"),
        "glance": {"api_servers": cloud.url("glance")},
        "neutron": {**cloud.auth("neutron"), "service_metadata_proxy": True,
                    "metadata_proxy_shared_secret": cloud.password("metadata")},
        "keystone_authtoken": cloud.keystone_authtoken("nova"),
        "cache": cloud.cache(),
        "serial_console": serial,
        "vnc": {"enabled": False},
        "oslo_concurrency": {"lock_path": str(state / "lock")},
    }
    if cloud.has("cinder"):
        sections["cinder"] = {**cloud.auth("cinder"), "os_region_name": REGION,
                              "catalog_info": "block-storage::publicURL"}
    return sections


def configure(cloud: Cloud) -> Path:
    """nova.conf of the control services."""
    path = cloud.etc("nova", "nova.conf")
    sections = shared(cloud, cloud.data("nova"))
    sections["DEFAULT"] |= {"osapi_compute_workers": 1, "metadata_workers": 1}
    write(path, sections | {
        "api": {"auth_strategy": "keystone"},
        "wsgi": {"api_paste_config": str(cloud.etc("nova", "api-paste.ini"))},
        "database": cloud.database("nova"),
        "api_database": cloud.database("nova_api", "nova"),
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 30},
        "conductor": {"workers": 1},
    })
    shutil.copyfile(cloud.venv / "etc/nova/api-paste.ini", cloud.etc("nova", "api-paste.ini"))
    return path


def configure_compute(cloud: Cloud, host: HostRecord) -> Path:
    """The configuration of one nova-compute: it has no database."""
    name = cloud.on(host, "nova-compute")
    path = cloud.etc("nova-compute", f"{name}.conf")
    sections = shared(cloud, cloud.data(name))
    sections["DEFAULT"] |= {
        "host": host.name, "my_ip": host.address, "compute_driver": DRIVERS[cloud.settings.driver],
        "resume_guests_state_on_host_boot": True,
        # Containers share the host's processors: 2 of them must hold more than nova's 8 servers.
        "cpu_allocation_ratio": 16.0, "disk_allocation_ratio": lxd.disk_ratio(cloud),
        "max_concurrent_builds": LONG_TASKS, "max_concurrent_snapshots": LONG_TASKS,
        "instances_path": str(cloud.data(f"{name}/instances")),
    }
    sections["serial_console"] |= {"proxyclient_address": host.address}
    helper = cloud.privsep(path)
    sections |= {
        "os_vif_ovs": {"ovsdb_connection": f"tcp:{cloud.address('ovsdb')}"},
        "nova_sys_admin": helper, "vif_plug_ovs_privileged": helper, "privsep_osbrick": helper,
    }
    if cloud.settings.driver == "lxd":
        sections["lxd"] = lxd.driver_options(cloud, host)
    write(path, sections)
    return path


def manage(cloud: Cloud, *arguments: str) -> str:
    return cloud.manage("nova", "nova-manage", "--config-file", configure(cloud), *arguments)


def api_schema(cloud: Cloud) -> None:
    """The API database, and in it the two cells."""
    manage(cloud, "api_db", "sync")
    cell0 = str(cloud.database("nova_cell0", "nova")["connection"])
    manage(cloud, "cell_v2", "map_cell0", "--database_connection", cell0)
    if "cell1" not in manage(cloud, "cell_v2", "list_cells"):
        manage(cloud, "cell_v2", "create_cell", "--name=cell1")


def main_schema(cloud: Cloud) -> None:
    """The database of cell1, and with it that of cell0."""
    manage(cloud, "db", "sync")


def api(cloud: Cloud, name: str, module: str, port: str, threads: int) -> Service:
    configure(cloud)
    return wsgi.api(
        cloud, name, module, port=port, threads=threads,
        env={"OS_NOVA_CONFIG_DIR": str(cloud.etc("nova"))},
        watch=(str(cloud.etc("nova", "nova.conf")),),
    )


def compute(cloud: Cloud, host: HostRecord) -> Service:
    name = cloud.on(host, "nova-compute")
    return cloud.daemon(name, "nova-compute", configure_compute(cloud, host),
                        enter=cloud.enter(host))


def wait_for_compute(cloud: Cloud, host: HostRecord) -> None:
    """Map ``host`` into the cell once its service is up, instead of waiting for the scheduler."""
    services = Rest.login(cloud).service("compute")
    deadline = time.monotonic() + 120
    while not any(
        entry["host"] == host.name and entry["state"] == "up"
        for entry in services.get("/os-services?binary=nova-compute")["services"]
    ):
        if time.monotonic() > deadline:
            name = cloud.on(host, "nova-compute")
            raise CloudError(f"nova-compute of {host.name} did not report within 120 seconds.",
                             log=cloud.log(name),
                             remedy="read the log, then run 'quickstart up' again")
        time.sleep(0.5)
    manage(cloud, "cell_v2", "discover_hosts")


def host_steps(cloud: Cloud, host: HostRecord) -> list[Step]:
    name = cloud.on(host, "nova-compute")
    needs = ["start nova-conductor", "start nova-api", "start placement", "start glance",
             "keystone/catalogue", f"start {cloud.on(host, 'ovn-controller')}"]
    if host.namespace:
        needs += ["start host-relay", f"hosts/underlay of {host.name}"]
    if cloud.settings.driver == "lxd":
        needs += ["python/driver", cloud.on(host, "lxd/pool")]
    return [
        cloud.start(name, lambda: compute(cloud, host), *needs),
        Step(cloud.on(host, "nova/host"), lambda: wait_for_compute(cloud, host),
             needs=(f"start {name}",), stamp=host.name),
    ]


def steps(cloud: Cloud) -> list[Step]:
    ready = ("nova/schema", "nova/api schema", "start rabbitmq", "start memcached")
    return [
        Step("nova/api schema", lambda: api_schema(cloud), stamp="1",
             needs=("python/openstack", "mariadb/databases")),
        Step("nova/schema", lambda: main_schema(cloud), stamp="1",
             needs=("nova/api schema",)),
        cloud.start("nova-api", lambda: api(cloud, "nova-api", "nova.wsgi.osapi_compute",
                                            "nova", 8), *ready),
        cloud.start("nova-metadata", lambda: api(cloud, "nova-metadata", "nova.wsgi.metadata",
                                                 "metadata", 4), *ready),
        cloud.start("nova-conductor", lambda: cloud.daemon(
            "nova-conductor", "nova-conductor", configure(cloud)), *ready),
        cloud.start("nova-scheduler", lambda: cloud.daemon(
            "nova-scheduler", "nova-scheduler", configure(cloud)), *ready),
        cloud.start("nova-serialproxy", lambda: serial_proxy(cloud), *ready),
        *(step for host in cloud.settings.hosts for step in host_steps(cloud, host)),
    ]


def serial_proxy(cloud: Cloud) -> Service:
    return cloud.daemon("nova-serialproxy", "nova-serialproxy", configure(cloud),
                        probe=Probe("tcp", cloud.address("serialproxy")))
