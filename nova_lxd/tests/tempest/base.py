# SPDX-License-Identifier: Apache-2.0
"""What the tests share: servers that take logins, flavors with extra specs, waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tempest import config
from tempest.api.compute import base
from tempest.common import waiters
from tempest.common.utils.linux import remote_client
from tempest.lib.common.utils import data_utils, test_utils
from tempest.lib.exceptions import SSHExecCommandFailed, SSHTimeout

CONF = config.CONF
T = TypeVar("T")


class LXDTest(base.BaseV2ComputeAdminTest):
    """A project of its own with a network, its users, and an administrator."""

    # From this one on the API checks the extra specs of flavors.
    min_microversion = "2.86"

    @classmethod
    def skip_checks(cls) -> None:
        super().skip_checks()
        if not CONF.validation.run_validation:
            raise cls.skipException("[validation]run_validation is off: nobody looks into guests")

    @classmethod
    def setup_credentials(cls) -> None:
        cls.prepare_instance_network()
        super().setup_credentials()

    @classmethod
    def guest(cls, server: dict[str, Any], resources: dict[str, Any]) -> Guest:
        """The way into a server that was made with these validation resources."""
        return Guest(
            cls.get_server_ip(server, resources),
            CONF.validation.image_ssh_user,
            pkey=resources["keypair"]["private_key"],
            server=server,
            servers_client=cls.servers_client,
        )

    @classmethod
    def boot_guest(cls, resources: dict[str, Any], **wishes: Any) -> tuple[dict[str, Any], Guest]:
        """A server that takes logins, and the way into it."""
        made = cls.create_test_server(
            validatable=True, validation_resources=resources, wait_until="SSHABLE", **wishes
        )
        server = cls.servers_client.show_server(made["id"])["server"]
        return server, cls.guest(server, resources)

    def boot_own_guest(self, **wishes: Any) -> Guest:
        """The way into a server of one test."""
        resources = self.get_test_validation_resources(self.os_primary)
        server, inside = self.boot_guest(resources, **wishes)
        # Before the validation resources, which cannot be deleted while a server uses them.
        self.addCleanup(self.delete_server, server["id"])
        return inside

    def flavor(self, memory: int = 256, vcpus: int = 1, **specs: str) -> str:
        """The id of a new flavor; in the names of ``specs``, __ stands for the colon."""
        made = self.admin_flavors_client.create_flavor(
            name=data_utils.rand_name("lxd"), ram=memory, vcpus=vcpus, disk=2
        )["flavor"]
        self.addCleanup(
            test_utils.call_and_ignore_notfound_exc,
            self.admin_flavors_client.delete_flavor,
            made["id"],
        )
        if specs:
            self.admin_flavors_client.set_flavor_extra_spec(
                made["id"], **{name.replace("__", ":"): text for name, text in specs.items()}
            )
        return str(made["id"])

    def fault_of(self, **wishes: Any) -> str:
        """What the owner is told of a server that cannot be built."""
        server = self.create_test_server(**wishes)
        waiters.wait_for_server_status(
            self.servers_client, server["id"], "ERROR", raise_on_error=False
        )
        shown = self.servers_client.show_server(server["id"])["server"]
        return str(shown["fault"]["message"])


class Guest(remote_client.RemoteClient):
    """A login in a guest."""

    def init_start(self) -> str:
        """When the guest's first process started: another value after every boot."""
        return str(self.exec_command("awk '{print $22}' /proc/1/stat")).strip()

    def refused(self, command: str) -> bool:
        """Whether the command fails."""
        try:
            self.exec_command(command)
        except SSHExecCommandFailed:
            return True
        return False

    def memory(self) -> int:
        """MiB that the guest sees."""
        return int(self.exec_command("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024

    def eventually(self, what: str, probe: Callable[[], T], seconds: float = 120) -> T:
        """The first true value of ``probe``, while the guest may be away; else AssertionError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if value := probe():
                    return value
            except (SSHTimeout, SSHExecCommandFailed, OSError, EOFError):
                pass  # it is booting
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not happen within {seconds:.0f} seconds")
            time.sleep(1)
