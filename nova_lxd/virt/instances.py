# SPDX-License-Identifier: Apache-2.0
"""Verbs on one LXD instance, by its LXD name."""

from __future__ import annotations

import pathlib
import time
from typing import Any

from nova.compute import power_state
from oslo_log import log as logging

from nova_lxd.virt import exception
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.events import EventWatcher

LOG = logging.getLogger(__name__)

START_ATTEMPTS = 3

Devices = dict[str, dict[str, str]]


class Instances:
    """The instances of one host's project; every change refreshes the state cache."""

    def __init__(self, client: LXDClient, watcher: EventWatcher) -> None:
        self._client = client
        self._watcher = watcher

    def get(self, name: str) -> dict[str, Any]:
        """Return the LXD record of an instance.

        :raises LXDNotFound:
        """
        return self._client.get("instances", name)

    def exists(self, name: str) -> bool:
        """Tell whether LXD has the instance, asking it and not the cache."""
        return self._client.exists("instances", name)

    def power_state(self, name: str) -> int:
        """Return Nova's power state, read from LXD."""
        return self._watcher.refresh(name).state

    def create(
        self, name: str, fingerprint: str, config: dict[str, str], devices: Devices
    ) -> None:
        """Create a stopped container from an image of the project."""
        self._client.post(
            "instances",
            json={
                "name": name,
                "type": "container",
                "profiles": [],
                "config": config,
                "devices": devices,
                "source": {"type": "image", "fingerprint": fingerprint},
            },
        )
        self._watcher.refresh(name)

    def delete(self, name: str) -> None:
        """Stop and delete the instance; an absent one is deleted already."""
        try:
            self.stop(name)
            self._client.delete("instances", name, missing_ok=True)
            self._watcher.refresh(name)
        except exception.LXDNotFound:
            return

    def rename(self, name: str, new: str) -> None:
        """Rename a stopped instance."""
        self._client.post("instances", name, json={"name": new})
        self._watcher.forget(name)
        self._watcher.refresh(new)

    def change(
        self,
        name: str,
        config: dict[str, str | None] | None = None,
        devices: dict[str, dict[str, str] | None] | None = None,
    ) -> None:
        """Set config keys and devices, applied live where it runs; None removes one."""
        record = self.get(name)
        self._client.put(
            "instances",
            name,
            json={
                **{key: record[key] for key in ("architecture", "ephemeral", "profiles")},
                "description": record.get("description", ""),
                "config": _merged(record["config"], config or {}),
                "devices": _merged(record["devices"], devices or {}),
            },
        )
        self._watcher.refresh(name)

    def start(self, name: str) -> None:
        """Start a stopped instance; a running one is left alone, a frozen one thawed."""
        state = self.power_state(name)
        if state == power_state.PAUSED:
            self._action(name, "unfreeze")
        elif state != power_state.RUNNING:
            self._start(name)

    def _start(self, name: str) -> None:
        """Start, more than once: LXD still tidies up for a moment after an instance's end."""
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._action(name, "start")
                return
            except exception.LXDError as e:
                if attempt == START_ATTEMPTS or self.power_state(name) != power_state.SHUTDOWN:
                    raise
                LOG.info("Starting %s failed, trying again: %s", name, e)
                time.sleep(attempt)

    def stop(self, name: str, grace: int = 0) -> None:
        """Stop the instance: ask the guest and wait ``grace`` seconds, then force it.

        A stopped instance is left alone.
        """
        state = self.power_state(name)
        if state == power_state.SHUTDOWN:
            return
        if grace and state == power_state.PAUSED:
            self._action(name, "unfreeze")
        if grace:
            try:
                self._action(name, "stop", timeout=grace)
                return
            except exception.LXDError as e:
                LOG.info("%s did not stop within %s s, forcing it: %s", name, grace, e)
        try:
            self._action(name, "stop", force=True)
        except exception.LXDError:
            if self.power_state(name) != power_state.SHUTDOWN:
                raise

    def freeze(self, name: str) -> None:
        """Freeze every process of a running instance; a frozen one is left alone."""
        if self.power_state(name) != power_state.PAUSED:
            self._action(name, "freeze")

    def unfreeze(self, name: str) -> None:
        """Let a frozen instance go on; a running one is left alone."""
        if self.power_state(name) == power_state.PAUSED:
            self._action(name, "unfreeze")

    def state(self, name: str) -> dict[str, Any]:
        """Return LXD's run-time state: cpu, memory, disk, network, processes, pid."""
        return self._client.get("instances", name, "state")

    def push_file(
        self, name: str, path: str, content: bytes, mode: str = "0600", uid: int = 0, gid: int = 0
    ) -> None:
        """Write a file into the instance, making its parent directories."""
        for parent in reversed(pathlib.PurePosixPath(path).parents[:-1]):
            self._push(name, str(parent), b"", "directory", "0755", 0, 0)
        self._push(name, path, content, "file", mode, uid, gid)

    def _push(
        self, name: str, path: str, content: bytes, kind: str, mode: str, uid: int, gid: int
    ) -> None:
        self._client.post(
            "instances",
            name,
            "files",
            params={"path": path},
            data=content,
            headers={
                "X-LXD-type": kind,
                "X-LXD-mode": mode,
                "X-LXD-uid": str(uid),
                "X-LXD-gid": str(gid),
            },
        )

    def _action(self, name: str, action: str, timeout: int = -1, force: bool = False) -> None:
        try:
            self._client.put(
                "instances",
                name,
                "state",
                json={"action": action, "timeout": timeout, "force": force, "stateful": False},
            )
        finally:
            self._watcher.refresh(name)


def _merged(old: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {**old, **changes}
    return {key: value for key, value in both.items() if value is not None}
