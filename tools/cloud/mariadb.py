# SPDX-License-Identifier: Apache-2.0
"""Our own MariaDB server: own data directory, socket and port."""

from __future__ import annotations

import shutil
from pathlib import Path

from cloud.context import Cloud
from cloud.errors import CloudError
from cloud.layout import write_private
from cloud.run import run
from cloud.services import Probe, Service
from cloud.settings import LOOPBACK
from cloud.steps import Step, fingerprint

USER = "mysql"


def databases(cloud: Cloud) -> list[tuple[str, str]]:
    """(database, user that owns it)."""
    names = [(name, name) for name in ("keystone", "glance", "placement", "nova", "neutron")]
    names += [("nova_api", "nova"), ("nova_cell0", "nova")]
    if cloud.has("cinder"):
        names.append(("cinder", "cinder"))
    return names


def directory(cloud: Cloud) -> Path:
    return cloud.layout.state / "mariadb"


def socket_path(cloud: Cloud) -> Path:
    return directory(cloud) / "mysql.sock"


def service(cloud: Cloud) -> Service:
    configure(cloud)
    return Service(
        name="mariadb", argv=(find("mariadbd"), f"--defaults-file={directory(cloud) / 'my.cnf'}"),
        log=str(cloud.log("mariadb")), probe=Probe("tcp", cloud.address("mariadb")), user=USER,
        watch=(str(directory(cloud) / "my.cnf"),), stop_seconds=60,
    )


def find(program: str) -> str:
    """The path of a Debian program, which may sit in /usr/sbin outside of PATH."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/lib/rabbitmq/bin")
    if path is None:
        raise CloudError(f"the program {program} is not installed.",
                         remedy="run 'quickstart up' again: it installs missing packages")
    return path


def configure(cloud: Cloud) -> None:
    home = directory(cloud)
    home.mkdir(exist_ok=True)
    shutil.chown(home, USER, USER)
    home.chmod(0o750)
    options = {
        "user": USER, "datadir": home / "data", "socket": socket_path(cloud),
        "pid-file": home / "pid", "bind-address": LOOPBACK, "port": cloud.port("mariadb"),
        "max_connections": 500, "innodb_flush_log_at_trx_commit": 2,
        "innodb_buffer_pool_size": "256M", "innodb_file_per_table": 1,
        "character-set-server": "utf8mb3", "collation-server": "utf8mb3_general_ci",
    }
    lines = ["[mysqld]", "skip-name-resolve", *(f"{k}={v}" for k, v in options.items())]
    write_private(home / "my.cnf", "\n".join(lines) + "\n", mode=0o644)


def initialise(cloud: Cloud) -> bool:
    """Make the data directory; a half-made one of an interrupted run is removed first."""
    configure(cloud)
    data = directory(cloud) / "data"
    if data.is_dir():
        shutil.rmtree(data)
    run(("mariadb-install-db", "--no-defaults", f"--user={USER}", f"--datadir={data}",
         "--auth-root-authentication-method=socket", "--skip-test-db"),
        log=cloud.log("step-mariadb"))
    return True


def create_databases(cloud: Cloud) -> None:
    """Databases, users and grants; repeatable, and a changed password is set."""
    statements = []
    for name, user in databases(cloud):
        statements.append(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb3;")
        # skip-name-resolve: a TCP client of the loopback address is 127.0.0.1, not localhost.
        for host in (LOOPBACK, "localhost"):
            statements.append(
                f"GRANT ALL ON {name}.* TO '{user}'@'{host}' "
                f"IDENTIFIED BY '{cloud.password(user)}';"
            )
    run(("mariadb", "--no-defaults", f"--socket={socket_path(cloud)}", "--user=root"),
        text="\n".join(statements), log=cloud.log("step-mariadb"))


def steps(cloud: Cloud) -> list[Step]:
    grants = fingerprint(repr(databases(cloud)), repr(sorted(cloud.settings.passwords.items())))
    return [
        Step("mariadb/data", lambda: initialise(cloud), needs=("packages",), stamp="1"),
        cloud.start("mariadb", lambda: service(cloud), "mariadb/data"),
        Step("mariadb/databases", lambda: create_databases(cloud), needs=("start mariadb",),
             stamp=grants),
    ]
