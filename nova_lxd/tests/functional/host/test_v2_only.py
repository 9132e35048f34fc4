# SPDX-License-Identifier: Apache-2.0
"""The same containers on a host with nothing but cgroup v2: a mount namespace that shows only it.

Controllers that this host has bound to v1 are missing there; starting, freezing, device lists,
leftovers and ending are not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nova_lxd.lxd.host import cgroups

HERE = Path(__file__).parent
ONLY_V2 = """
awk '$5 ~ "^/sys/fs/cgroup" {print $5}' /proc/self/mountinfo | sort -r | xargs -n 1 umount -l
mount -t cgroup2 none /sys/fs/cgroup
exec "$@"
"""
TESTS = "frozen or freeze or device or ended or kill or monitor or refused or ending"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_on_cgroup_v2_alone() -> None:
    if not cgroups.layout().v1:
        pytest.skip("this host has cgroup v2 only; all tests here run on it")
    files = [str(HERE / name) for name in ("test_cgroups.py", "test_liblxc.py")]
    pytest_argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", TESTS]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", ONLY_V2, "sh", *pytest_argv, *files],
        cwd=HERE.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= 10, done.stdout
