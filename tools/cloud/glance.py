# SPDX-License-Identifier: Apache-2.0
"""Glance, with images as files below the state directory."""

from __future__ import annotations

from cloud import wsgi
from cloud.context import Cloud
from cloud.ini import write
from cloud.services import Service
from cloud.steps import Step


def configure(cloud: Cloud) -> None:
    home = cloud.data("glance")
    home.chmod(0o700)
    write(cloud.etc("glance", "glance-api.conf"), {
        "DEFAULT": {"enabled_backends": "file:file", "use_keystone_limits": False,
                    "use_stderr": True},
        "glance_store": {"default_backend": "file"},
        "file": {"filesystem_store_datadir": str(cloud.data("glance/images"))},
        "os_glance_staging_store": {"filesystem_store_datadir": str(cloud.data("glance/staging"))},
        "os_glance_tasks_store": {"filesystem_store_datadir": str(cloud.data("glance/tasks"))},
        "paste_deploy": {"flavor": "keystone",
                         "config_file": str(cloud.venv / "etc/glance/glance-api-paste.ini")},
        "database": cloud.database("glance"),
        "keystone_authtoken": cloud.keystone_authtoken("glance"),
        "oslo_concurrency": cloud.locks("glance"),
    })


def schema(cloud: Cloud) -> None:
    configure(cloud)
    cloud.manage("glance", "glance-manage", "--config-file",
                 cloud.etc("glance", "glance-api.conf"), "db_sync")


def service(cloud: Cloud) -> Service:
    configure(cloud)
    return wsgi.api(
        cloud, "glance", "glance.wsgi.api", port="glance",
        env={"OS_GLANCE_CONFIG_DIR": str(cloud.etc("glance"))},
        watch=(str(cloud.etc("glance", "glance-api.conf")),),
    )


def steps(cloud: Cloud) -> list[Step]:
    return [
        Step("glance/schema", lambda: schema(cloud), stamp="1",
             needs=("python/openstack", "mariadb/databases")),
        cloud.start("glance", lambda: service(cloud), "glance/schema", "start memcached"),
    ]
