# SPDX-License-Identifier: Apache-2.0
"""How the daemon learns whether a container stopped or asked for a reboot."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

_SCRIPT = Path(__file__).with_name("post-stop.sh")
TARGET_FILE = "target"


def stop_hook_items(run_dir: Path) -> list[tuple[str, str]]:
    """The configuration by which liblxc notes in ``run_dir`` how the container ended.

    A reboot from inside then ends the container too: its devices are stopped and started anew by
    the daemon, which starts it afresh.
    """
    target = run_dir / TARGET_FILE
    # liblxc hands the value to a shell.
    value = f"/bin/sh {shlex.quote(str(_SCRIPT))} {shlex.quote(str(target))}"
    return [("lxc.hook.version", "1"), ("lxc.hook.post-stop", value)]


def take_target(run_dir: Path) -> Literal["stop", "reboot"]:
    """How the container ended; asked once its monitor has ended, and forgotten then.

    "stop" too when the monitor was killed and no hook ran.
    """
    path = run_dir / TARGET_FILE
    try:
        noted = path.read_text()
    except FileNotFoundError:
        return "stop"
    path.unlink(missing_ok=True)
    return "reboot" if noted == "reboot" else "stop"
