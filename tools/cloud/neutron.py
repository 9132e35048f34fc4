# SPDX-License-Identifier: Apache-2.0
"""Neutron with ML2/OVN: API, its two workers, and one OVN agent (metadata) per host."""

from __future__ import annotations

import shutil
from pathlib import Path

from cloud import outbound, ovn, wsgi
from cloud.context import Cloud, Section
from cloud.ini import write
from cloud.services import Service
from cloud.settings import HostRecord
from cloud.steps import Step

PRIVSEP = ("privsep", "privsep_dhcp_release", "privsep_ovs_vsctl", "privsep_namespace",
           "privsep_conntrack", "privsep_link")


def ovn_section(cloud: Cloud) -> Section:
    return {
        "ovn_nb_connection": f"tcp:{cloud.address('ovn-nb')}",
        "ovn_sb_connection": f"tcp:{cloud.address('ovn-sb')}",
    }


def configure(cloud: Cloud) -> tuple[Path, Path]:
    """neutron.conf and ml2_conf.ini of the control services."""
    main = cloud.etc("neutron", "neutron.conf")
    ml2 = cloud.etc("neutron", "plugins", "ml2", "ml2_conf.ini")
    write(main, {
        "DEFAULT": {
            "state_path": str(cloud.data("neutron")), "core_plugin": "ml2",
            "service_plugins": "ovn-router", "transport_url": cloud.transport_url,
            "auth_strategy": "keystone", "notify_nova_on_port_status_changes": True,
            "notify_nova_on_port_data_changes": True, "use_stderr": True,
            "api_paste_config": str(cloud.etc("neutron", "api-paste.ini")),
            "api_workers": 1, "rpc_workers": 0,
        },
        "database": cloud.database("neutron"),
        "keystone_authtoken": cloud.keystone_authtoken("neutron"),
        "nova": cloud.auth("nova"),
        "placement": cloud.auth("placement"),
        "AGENT": {"root_helper": ""},
        "oslo_concurrency": cloud.locks("neutron"),
    })
    write(ml2, {
        "ml2": {"type_drivers": "geneve,flat,vlan,local", "project_network_types": "geneve",
                "mechanism_drivers": "ovn", "extension_drivers": "port_security",
                "overlay_ip_version": 4},
        "ml2_type_geneve": {"vni_ranges": "1:65535", "max_header_size": 38},
        "ml2_type_flat": {"flat_networks": ovn.PHYSICAL_NETWORK},
        "securitygroup": {"enable_security_group": True},
        "ovn": {**ovn_section(cloud), "ovn_l3_scheduler": "leastloaded",
                "ovn_metadata_enabled": True, "ovn_emit_need_to_frag": False,
                "dns_servers": ",".join(outbound.resolvers()),
                # The external network is on the first host alone, so all floating IPs are too.
                "enable_distributed_floating_ip": False},
    })
    paste = cloud.venv / "etc/neutron/api-paste.ini"
    shutil.copyfile(paste, cloud.etc("neutron", "api-paste.ini"))
    return main, ml2


def configure_agent(cloud: Cloud, host: HostRecord) -> Path:
    name = cloud.on(host, "neutron-ovn-agent")
    path = cloud.etc("neutron-ovn-agent", f"{name}.conf")
    helper = cloud.privsep(path)
    write(path, {
        "DEFAULT": {
            "state_path": str(cloud.data(name)), "host": host.name, "use_stderr": True,
            "nova_metadata_host": "127.0.0.1", "nova_metadata_port": cloud.port("metadata"),
            "metadata_proxy_shared_secret": cloud.password("metadata"), "metadata_workers": 0,
        },
        "AGENT": {"root_helper": ""},
        "agent": {"extensions": "metadata"},
        "ovs": {"ovsdb_connection": f"tcp:{cloud.address('ovsdb')}"},
        "ovn": ovn_section(cloud),
        **{section: helper for section in PRIVSEP},
        "oslo_concurrency": cloud.locks(name),
    })
    return path


def schema(cloud: Cloud) -> None:
    main, ml2 = configure(cloud)
    cloud.manage("neutron", "neutron-db-manage", "--config-file", main, "--config-file", ml2,
                 "upgrade", "heads")


def api(cloud: Cloud) -> Service:
    main, ml2 = configure(cloud)
    return wsgi.api(
        cloud, "neutron-api", "neutron.wsgi.api", port="neutron",
        env={"OS_NEUTRON_CONFIG_DIR": str(cloud.etc("neutron"))}, watch=(str(main), str(ml2)),
    )


def worker(cloud: Cloud, name: str) -> Service:
    return cloud.daemon(name, name, *configure(cloud))


def agent(cloud: Cloud, host: HostRecord) -> Service:
    name = cloud.on(host, "neutron-ovn-agent")
    return cloud.daemon(name, "neutron-ovn-agent", configure_agent(cloud, host),
                        enter=cloud.enter(host))


def host_steps(cloud: Cloud, host: HostRecord) -> list[Step]:
    return [cloud.start(
        cloud.on(host, "neutron-ovn-agent"), lambda: agent(cloud, host),
        "python/openstack", f"start {cloud.on(host, 'ovn-controller')}",
        "start ovn-northd", "start nova-metadata",
        *(("start host-relay",) if host.namespace else ()),
    )]


def steps(cloud: Cloud) -> list[Step]:
    ready = ("neutron/schema", "start rabbitmq", "start memcached", "network/databases")
    return [
        Step("neutron/schema", lambda: schema(cloud), stamp="1",
             needs=("python/openstack", "mariadb/databases")),
        cloud.start("neutron-api", lambda: api(cloud), *ready),
        *(cloud.start(name, lambda name=name: worker(cloud, name), "start neutron-api")
          for name in ("neutron-periodic-workers", "neutron-ovn-maintenance-worker")),
        *(step for host in cloud.settings.hosts for step in host_steps(cloud, host)),
    ]
