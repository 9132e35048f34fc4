# SPDX-License-Identifier: Apache-2.0
"""Placement."""

from __future__ import annotations

from cloud import wsgi
from cloud.context import Cloud
from cloud.ini import write
from cloud.services import Service
from cloud.steps import Step


def configure(cloud: Cloud) -> None:
    write(cloud.etc("placement", "placement.conf"), {
        "DEFAULT": {"use_stderr": True},
        "placement_database": cloud.database("placement"),
        "api": {"auth_strategy": "keystone"},
        "keystone_authtoken": cloud.keystone_authtoken("placement"),
        "oslo_concurrency": cloud.locks("placement"),
    })


def schema(cloud: Cloud) -> None:
    configure(cloud)
    cloud.manage("placement", "placement-manage", "--config-file",
                 cloud.etc("placement", "placement.conf"), "db", "sync")


def service(cloud: Cloud) -> Service:
    configure(cloud)
    return wsgi.api(
        cloud, "placement", "placement.wsgi.api", port="placement",
        env={"OS_PLACEMENT_CONFIG_DIR": str(cloud.etc("placement"))},
        watch=(str(cloud.etc("placement", "placement.conf")),),
    )


def steps(cloud: Cloud) -> list[Step]:
    return [
        Step("placement/schema", lambda: schema(cloud), stamp="1",
             needs=("python/openstack", "mariadb/databases")),
        cloud.start("placement", lambda: service(cloud), "placement/schema", "start memcached"),
    ]
