# SPDX-License-Identifier: Apache-2.0
"""Run a command beside a fresh daemon: same namespaces, LXD_DIR set, a storage pool "default".

python tools/testrun/beside.py --backend bundled|lxd [--pool dir|btrfs] -- COMMAND...
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from nova_lxd.tests.functional.daemon import Daemon, sweep  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser("beside", description=__doc__)
    top.add_argument("--backend", choices=("bundled", "lxd"), default="bundled")
    top.add_argument("--pool", choices=("dir", "btrfs"), default="dir")
    top.add_argument("command", nargs=argparse.REMAINDER)
    args = top.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    sweep()
    with Daemon(args.backend) as daemon:
        size = ["size=4GiB"] if args.pool == "btrfs" else []
        daemon.lxc("storage", "create", "default", args.pool, *size)
        environment = {
            **os.environ,
            **daemon.environment,
            "NOVA_LXD_TEST_BACKEND": args.backend,
            "PATH": os.environ["PATH"],
        }
        argv_inside = daemon.sandbox.argv(["sh", "-c", 'cd "$0" && exec "$@"', str(REPOSITORY)])
        return subprocess.run([*argv_inside, *command], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
