# SPDX-License-Identifier: Apache-2.0
"""The cloud as the tests see it: a user with openstacksdk and an ssh client."""

from __future__ import annotations

import base64
import contextlib
import shlex
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import openstack
from openstack import connection, exceptions

T = TypeVar("T")

BUILD_SECONDS = 180
SSH_SECONDS = 120
SSH_OPTIONS = (
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
    "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=3", "-o", "BatchMode=yes",
)


class GuestError(AssertionError):
    """A command in a guest, or the way to it, failed."""


def eventually(what: str, seconds: float, probe: Callable[[], T | None], pause: float = 0.5) -> T:
    """The first true value of ``probe``; AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:.0f} seconds")
        time.sleep(pause)


class World:
    """One user of the cloud, and everything that the user made: undone by ``close``."""

    def __init__(self, state: Path, cloud: str = "demo") -> None:
        config = openstack.config.OpenStackConfig(config_files=[str(state / "clouds.yaml")])
        self.state = state
        self.api = connection.Connection(config=config.get_one(cloud))
        self.undo = ExitStack()

    def close(self) -> None:
        """Delete all that was made, the last first."""
        self.undo.close()
        self.api.close()

    # servers

    def boot(self, name: str, **wishes: Any) -> Any:
        """Create a server and wait until it is ACTIVE."""
        return self.wait_active(self.create(name, **wishes))

    def create(self, name: str, *, image: str = "debian", flavor: str = "c1.small",
               user_data: str = "", **wishes: Any) -> Any:
        """Ask for a server in network private; it is deleted at the end of the test."""
        if user_data:
            wishes["user_data"] = base64.b64encode(user_data.encode()).decode()
        wishes.setdefault("networks", [{"uuid": self.api.network.find_network("private").id}])
        server = self.api.compute.create_server(
            name=name, image_id=self.image_id(image), key_name="quickstart",
            flavor_id=self.api.compute.find_flavor(flavor, ignore_missing=False).id, **wishes)
        self.undo.callback(self.delete, server)
        return server

    def image_id(self, name: str) -> str:
        return str(self.api.image.find_image(name, ignore_missing=False).id)

    def delete(self, server: Any) -> None:
        self.api.compute.delete_server(server, ignore_missing=True)
        self.api.compute.wait_for_delete(server, interval=0.5, wait=BUILD_SECONDS)

    def wait_status(self, server: Any, status: str, seconds: float = BUILD_SECONDS) -> Any:
        return self.api.compute.wait_for_server(
            server, status=status, interval=0.5, wait=int(seconds))

    def wait_active(self, server: Any, seconds: float = BUILD_SECONDS) -> Any:
        try:
            return self.wait_status(server, "ACTIVE", seconds)
        except exceptions.ResourceFailure as error:
            fault = (self.api.compute.get_server(server).fault or {}).get("message", "")
            raise AssertionError(f"server {server.name} failed: {fault}") from error

    def floating_ip(self, server: Any) -> str:
        """Give the server an address that this machine reaches."""
        port = next(iter(self.api.network.ports(device_id=server.id)))
        external = self.api.network.find_network("public", ignore_missing=False)
        address = self.api.network.create_ip(floating_network_id=external.id, port_id=port.id)
        self.undo.callback(self.api.network.delete_ip, address, ignore_missing=True)
        return str(address.floating_ip_address)

    def console(self, server: Any) -> str:
        return str(self.api.compute.get_server_console_output(server)["output"])

    # inside of guests

    def ssh(self, address: str, command: str, timeout: float = 60) -> str:
        """Run a command in a guest; GuestError when it or the login fails."""
        argv = ["ssh", "-i", str(self.state / "id_ed25519"), *SSH_OPTIONS, f"debian@{address}"]
        done = subprocess.run([*argv, command], capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise GuestError(f"{command!r} on {address}: status {done.returncode}: {done.stderr}")
        return done.stdout

    def wait_ssh(self, address: str, command: str = "true", seconds: float = SSH_SECONDS) -> str:
        """The output of the first login that works."""
        def attempt() -> str | None:
            with contextlib.suppress(GuestError, subprocess.TimeoutExpired):
                return self.ssh(address, command, timeout=10) or " "
            return None

        return eventually(f"ssh to {address}", seconds, attempt, pause=1).strip()

    def boot_reachable(self, name: str, **wishes: Any) -> tuple[Any, str]:
        """A server that takes logins, and its floating IP."""
        server = self.boot(name, **wishes)
        address = self.floating_ip(server)
        self.wait_ssh(address)
        return server, address

    def write(self, address: str, path: str, text: str) -> None:
        """Write a file of root in a guest, on disk when this returns."""
        self.ssh(address, f"echo {shlex.quote(text)} | sudo tee {path} >/dev/null && sync")


Guest = tuple[World, Any, str]
"""A user, a server of the user, and the floating IP that it takes logins at."""
