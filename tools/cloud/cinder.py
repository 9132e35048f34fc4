# SPDX-License-Identifier: Apache-2.0
"""Cinder with its NFS driver on a local directory: no NFS, no iSCSI, no device mapper needed.

os-brick takes a share as mounted when its mount point is one; a bind mount is one.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from cloud import wsgi
from cloud.context import Cloud
from cloud.host import mounts_below
from cloud.ini import write
from cloud.layout import write_private
from cloud.run import run
from cloud.services import Service
from cloud.settings import LOOPBACK
from cloud.steps import Step

SUDO = """#!/bin/sh
# Stands in for sudo: every service of this cloud runs as root already.
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""
MOUNT_NFS = """#!/bin/sh
# Cinder's NFS driver asks only whether this program is there; the share is a bind mount.
exit 0
"""


def share(cloud: Cloud) -> str:
    return f"{LOOPBACK}:{cloud.data('cinder/share')}"


def mount_point(cloud: Cloud) -> Path:
    digest = hashlib.md5(share(cloud).encode(), usedforsecurity=False).hexdigest()
    return cloud.data("cinder/mnt") / digest


def configure(cloud: Cloud) -> Path:
    path = cloud.etc("cinder", "cinder.conf")
    shipped = cloud.venv / "etc/cinder"
    for name in ("api-paste.ini", "resource_filters.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped / name, path.parent / name)
    directories = f"{cloud.layout.shims},{cloud.venv / 'bin'},/sbin,/usr/sbin,/bin,/usr/bin"
    write(path.parent / "rootwrap.conf", {"DEFAULT": {
        "filters_path": str(shipped / "rootwrap.d"), "exec_dirs": directories,
        "use_syslog": False}})
    for name, text in (("sudo", SUDO), ("mount.nfs", MOUNT_NFS)):
        write_private(cloud.layout.shims / name, text, mode=0o755)
    write_private(path.parent / "shares", share(cloud) + "\n")
    helper = cloud.privsep(path)
    write(path, {
        "DEFAULT": {
            "state_path": str(cloud.data("cinder")), "my_ip": LOOPBACK,
            "host": cloud.first_host.name, "use_stderr": True,
            "transport_url": cloud.transport_url, "auth_strategy": "keystone",
            "api_paste_config": str(path.parent / "api-paste.ini"),
            "resource_query_filters_file": str(path.parent / "resource_filters.json"),
            "rootwrap_config": str(path.parent / "rootwrap.conf"),
            "enabled_backends": "nfs",
            "glance_api_servers": cloud.url("glance"), "osapi_volume_workers": 1,
        },
        "nfs": {
            "volume_driver": "cinder.volume.drivers.nfs.NfsDriver", "volume_backend_name": "nfs",
            "nfs_shares_config": str(path.parent / "shares"),
            "nfs_mount_point_base": str(mount_point(cloud).parent),
            "nas_secure_file_operations": False, "nas_secure_file_permissions": False,
            "nfs_snapshot_support": True,
        },
        "database": cloud.database("cinder"),
        "keystone_authtoken": cloud.keystone_authtoken("cinder"),
        "nova": {"interface": "public", **cloud.auth("nova")},
        "service_user": cloud.service_user("cinder"),
        "coordination": {"backend_url": f"file://{cloud.data('cinder/coordination')}"},
        "privsep": helper, "cinder_sys_admin": helper, "privsep_osbrick": helper,
        "oslo_concurrency": cloud.locks("cinder"),
    })
    return path


def mount(cloud: Cloud) -> bool:
    """Bind the local directory where the driver expects its share."""
    point = mount_point(cloud)
    point.mkdir(parents=True, exist_ok=True)
    if mounts_below(point):
        return False
    run(("mount", "--bind", cloud.data("cinder/share"), point), log=cloud.log("step-cinder"))
    return True


def schema(cloud: Cloud) -> None:
    cloud.manage("cinder", "cinder-manage", "--config-file", configure(cloud), "db", "sync")


def api(cloud: Cloud) -> Service:
    path = configure(cloud)
    return wsgi.api(cloud, "cinder-api", "cinder.wsgi.api", port="cinder",
                    watch=(str(path),), arguments=f"--config-file {path}")


def daemon(cloud: Cloud, name: str) -> Service:
    service = cloud.daemon(name, name, configure(cloud), env={"PATH": program_path(cloud)})
    return service


def program_path(cloud: Cloud) -> str:
    """PATH with the stand-ins first."""
    return f"{cloud.layout.shims}:{cloud.venv / 'bin'}:/usr/local/sbin:/usr/local/bin:" \
           "/usr/sbin:/usr/bin:/sbin:/bin"


def steps(cloud: Cloud) -> list[Step]:
    if not cloud.has("cinder"):
        return []
    ready = ("cinder/schema", "start rabbitmq", "start memcached")
    return [
        Step("cinder/schema", lambda: schema(cloud), stamp="1",
             needs=("python/openstack", "mariadb/databases")),
        Step("cinder/share", lambda: mount(cloud), needs=("packages",)),
        cloud.start("cinder-api", lambda: api(cloud), *ready),
        cloud.start("cinder-scheduler", lambda: daemon(cloud, "cinder-scheduler"), *ready),
        cloud.start("cinder-volume", lambda: daemon(cloud, "cinder-volume"), *ready,
                    "cinder/share"),
    ]
