# SPDX-License-Identifier: Apache-2.0
"""Our own RabbitMQ node, and memcached."""

from __future__ import annotations

import shutil
from pathlib import Path

from cloud.context import Cloud
from cloud.layout import write_private
from cloud.mariadb import find
from cloud.services import Probe, Service
from cloud.settings import LOOPBACK
from cloud.steps import Step

USER = "rabbitmq"
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
MEMCACHED_USER = "nobody"


def directory(cloud: Cloud) -> Path:
    return cloud.layout.state / "rabbitmq"


def node_name(cloud: Cloud) -> str:
    tag = cloud.layout.tag
    return f"nova-lxd{'-' + tag if tag else ''}@localhost"


def configure(cloud: Cloud) -> None:
    """The node's files; its user and password are made by the node at its first start."""
    home = directory(cloud)
    home.mkdir(exist_ok=True)
    options = {
        "listeners.tcp.1": cloud.address("rabbitmq"), "loopback_users": "none",
        "default_user": "openstack", "default_pass": cloud.password("rabbitmq"),
        "vm_memory_high_watermark.absolute": "1GB", "disk_free_limit.absolute": "100MB",
    }
    write_private(home / "rabbitmq.conf", "".join(f"{k} = {v}\n" for k, v in options.items()))
    write_private(home / "enabled_plugins", "[].\n")
    for path in (home, home / "rabbitmq.conf", home / "enabled_plugins"):
        shutil.chown(path, USER, USER)
    home.chmod(0o700)


def environment(cloud: Cloud) -> dict[str, str]:
    """What keeps the node apart from any other RabbitMQ of the machine."""
    home = directory(cloud)
    return {
        "HOME": str(home),
        "RABBITMQ_NODENAME": node_name(cloud),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_DIST_PORT": str(cloud.port("rabbitmq-dist")),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(cloud.port("epmd")),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
            "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
        # The launcher then execs the Erlang VM instead of standing before it, so that a signal
        # reaches the node itself, which shuts down in order on SIGTERM.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def service(cloud: Cloud) -> Service:
    configure(cloud)
    home = directory(cloud)
    return Service(
        name="rabbitmq", argv=("/bin/sh", SERVER), log=str(cloud.log("rabbitmq")),
        probe=Probe("tcp", cloud.address("rabbitmq")), env=environment(cloud), user=USER,
        cwd=str(home), watch=(str(home / "rabbitmq.conf"),),
        tail=str(home / "log" / f"{node_name(cloud)}.log"),
    )


def memcached(cloud: Cloud) -> Service:
    return Service(
        name="memcached",
        argv=(find("memcached"), "-u", MEMCACHED_USER, "-l", LOOPBACK,
              "-p", str(cloud.port("memcached")), "-m", "64"),
        log=str(cloud.log("memcached")), probe=Probe("tcp", cloud.address("memcached")),
    )


def steps(cloud: Cloud) -> list[Step]:
    return [
        cloud.start("rabbitmq", lambda: service(cloud), "packages"),
        cloud.start("memcached", lambda: memcached(cloud), "packages"),
    ]
