# SPDX-License-Identifier: Apache-2.0
"""What is around liblxc and needs no container."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import nova_lxd
from nova_lxd.lxd.errors import BadRequest, InternalError
from nova_lxd.lxd.host.liblxc import client, hooks
from nova_lxd.lxd.host.liblxc.client import log_errors, write_config

LOG = """\
lxc c1 20260101000000.123 ERROR    confile - ../src/lxc/confile.c:set:164 - Invalid argument - No
lxc c1 20260101000000.124 WARN     start - ../src/lxc/start.c:x:1 - a warning
lxc c1 20260101000000.125 ERROR    start - ../src/lxc/start.c:y:2 - Failed to start
lxc c1 20260101000000.126 ERROR    start - ../src/lxc/start.c:z:3 - Failed to start
"""


def test_errors_of_the_log_in_one_line() -> None:
    assert log_errors(LOG) == "Invalid argument - No; Failed to start"
    assert log_errors("") == ""


def test_configuration_is_private_and_keeps_order(tmp_path: Path) -> None:
    path = tmp_path / "lxc.conf"
    write_config(path, [("lxc.a", "1"), ("lxc.b", "x y"), ("lxc.a", "2")])
    assert path.read_text() == "lxc.a = 1\nlxc.b = x y\nlxc.a = 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for bad in ("a\nlxc.hook.pre-start = x", "a\0b"):
        with pytest.raises(BadRequest):
            write_config(path, [("lxc.a", bad)])
    assert path.read_text().startswith("lxc.a = 1"), "an old one stays on failure"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("target", "code"), [("reboot", 1), ("stop", 0)])
def test_stop_hook(tmp_path: Path, target: str, code: int) -> None:
    run_dir = tmp_path / "it's a dir"
    run_dir.mkdir()
    command = dict(hooks.stop_hook_items(run_dir))["lxc.hook.post-stop"]
    done = subprocess.run(
        ["sh", "-c", f"exec {command}"], env={**os.environ, "LXC_TARGET": target}, check=False
    )
    assert done.returncode == code
    assert hooks.take_target(run_dir) == target
    assert hooks.take_target(run_dir) == "stop"


def test_helper_imports_little() -> None:
    """Every monitor is a fork of it: what it imports, each container pays for."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules);"
        "import nova_lxd.lxd.host.liblxc.zygote;"
        "print(*sorted(set(sys.modules) - before))"
    )
    top = str(Path(nova_lxd.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, top], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "_ctypes" in loaded
    assert not loaded & {"typing", "enum", "re", "logging", "socket", "json", "pathlib", "signal"}


def test_helper_that_does_not_come_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_BOOTSTRAP", "raise RuntimeError('no liblxc today')")
    zygote = client.Zygote()
    with pytest.raises(InternalError, match="no liblxc today"):
        zygote.open()
    assert zygote.pid is None
