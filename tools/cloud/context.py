# SPDX-License-Identifier: Apache-2.0
"""What every service family is handed: paths, settings, addresses, shared configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloud.controller import Controller, bring_up
from cloud.ini import Value
from cloud.layout import Layout
from cloud.run import run
from cloud.services import Probe, Service
from cloud.settings import LOOPBACK, HostRecord, Settings
from cloud.steps import Step

REGION = "RegionOne"
Section = dict[str, Value]


@dataclass(frozen=True)
class Cloud:
    """One cloud, as its parts see it."""

    layout: Layout
    settings: Settings
    controller: Controller

    @property
    def venv(self) -> Path:
        """The Python environment that holds OpenStack."""
        return Path(self.settings.venv) if self.settings.venv else self.layout.state / "venv"

    @property
    def first_host(self) -> HostRecord:
        return self.settings.hosts[0]

    def has(self, family: str) -> bool:
        return family not in self.settings.without

    def bin(self, program: str) -> str:
        """A program of the Python environment."""
        return str(self.venv / "bin" / program)

    def port(self, service: str) -> int:
        return self.settings.ports[service]

    def address(self, service: str) -> str:
        """HOST:PORT of a service."""
        return f"{LOOPBACK}:{self.port(service)}"

    def url(self, service: str, path: str = "") -> str:
        return f"http://{self.address(service)}{path}"

    def password(self, name: str) -> str:
        return self.settings.passwords[name]

    def etc(self, *parts: str) -> Path:
        return self.layout.etc.joinpath(*parts)

    def log(self, name: str) -> Path:
        return self.layout.log / f"{name}.log"

    def data(self, name: str) -> Path:
        """A directory of a service for what it keeps; made if missing."""
        path = self.layout.state / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def manage(
        self, step: str, *argv: str | Path, env: dict[str, str] | None = None,
    ) -> str:
        """Run a program of the Python environment for ``step``; its output goes to a log."""
        return run(
            (self.bin(str(argv[0])), *argv[1:]), log=self.log(f"step-{step}"),
            env={"PYTHONWARNINGS": "ignore", **(env or {})},
            remedy="read the log; 'quickstart up' tries again from this step",
        )

    def start(self, name: str, build: Callable[[], Service], *needs: str) -> Step:
        """The step that brings up a service; ``build`` writes its files and describes it.

        It is called when its turn comes: only then are packages and programs there.
        """
        return Step(f"start {name}", lambda: bring_up(self.controller, build()), needs=needs)

    def mount_namespace(self, host: HostRecord) -> Path:
        """The file that keeps the mount namespace of an added host alive."""
        return self.data("hosts") / f"{host.name}.mnt"

    def enter(self, host: HostRecord) -> tuple[str, ...]:
        """The words before a command that run it on ``host``; none for the machine itself."""
        if not host.namespace:
            return ()
        return (shutil.which("nsenter") or "/usr/bin/nsenter",
                f"--net=/run/netns/{host.namespace}", f"--mount={self.mount_namespace(host)}")

    def on(self, host: HostRecord, step: str) -> str:
        """``step`` as it is called on ``host``: with @NAME for an added one."""
        return step if host is self.first_host else f"{step}@{host.name}"

    # Configuration sections that several services share.

    def database(self, name: str, user: str = "") -> Section:
        user = user or name
        return {
            "connection": f"mysql+pymysql://{user}:{self.password(user)}@"
                          f"{self.address('mariadb')}/{name}",
            "max_pool_size": 5,
        }

    @property
    def transport_url(self) -> str:
        return f"rabbit://openstack:{self.password('rabbitmq')}@{self.address('rabbitmq')}/"

    def auth(self, user: str) -> Section:
        """How the service ``user`` logs in to keystone."""
        return {
            "auth_url": self.url("keystone", "/v3"), "auth_type": "password",
            "username": user, "password": self.password(user), "project_name": "service",
            "user_domain_name": "Default", "project_domain_name": "Default",
            "region_name": REGION,
        }

    def keystone_authtoken(self, user: str) -> Section:
        return {
            **self.auth(user), "www_authenticate_uri": self.url("keystone", "/v3"),
            "memcached_servers": self.address("memcached"), "service_token_roles": "service",
            "service_token_roles_required": True,
        }

    def service_user(self, user: str) -> Section:
        return {"send_service_user_token": True, **self.auth(user)}

    def cache(self) -> Section:
        return {
            "enabled": True, "backend": "dogpile.cache.memcached",
            "memcache_servers": self.address("memcached"),
        }

    def locks(self, name: str) -> Section:
        return {"lock_path": str(self.data(f"{name}/lock"))}

    def privsep(self, *config_files: Path) -> Section:
        """A privsep section of a service that runs as root: no sudo, no rootwrap."""
        files = " ".join(f"--config-file {path}" for path in config_files)
        return {"helper_command": f"{self.bin('privsep-helper')} {files}"}

    def daemon(
        self, name: str, program: str, *config_files: Path, arguments: tuple[str, ...] = (),
        env: dict[str, str] | None = None, enter: tuple[str, ...] = (), seconds: float = 4.0,
        probe: Probe | None = None,
    ) -> Service:
        """An OpenStack process without an HTTP address: it is well when it stays alive."""
        files = [word for path in config_files for word in ("--config-file", str(path))]
        return Service(
            name=name, argv=(self.bin(program), *files, *arguments), log=str(self.log(name)),
            probe=probe or Probe("alive", str(seconds)), env=env or {}, enter=enter,
            watch=tuple(map(str, config_files)),
        )
