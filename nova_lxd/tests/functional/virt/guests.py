# SPDX-License-Identifier: Apache-2.0
"""Looking into a running guest."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nova_lxd.virt import guest


def run(driver: Any, instance: Any, *command: str) -> str:
    """Run a program in the guest; return its output, failing on a code other than 0."""
    name = guest.name(instance)
    operation = driver.client.post(
        "instances",
        name,
        "exec",
        json={"command": list(command), "record-output": True, "wait-for-websocket": False},
    )
    output = operation["metadata"]["output"]
    texts = {}
    for fd, path in output.items():
        with driver.client.stream("instances", name, "logs", path.rsplit("/", 1)[1]) as pieces:
            texts[fd] = b"".join(pieces).decode()
    code = operation["metadata"]["return"]
    assert code == 0, f"{command} ended with {code}: {texts}"
    return texts["1"]


def read(driver: Any, instance: Any, path: str) -> bytes:
    """Return a file of the guest, running or not."""
    with driver.client.stream("instances", guest.name(instance), "files", path=path) as pieces:
        return b"".join(pieces)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Return the condition's first true value; patient, for machines that do other work too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")
