# SPDX-License-Identifier: Apache-2.0
"""Fuzz the API of a live daemon, then every reader of untrusted bytes.

The API: no 500, no traceback, no death, no file outside the state directory.  The document is the
daemon's own (nova_lxd.lxd.api.openapi); variable parts of paths are taken from what exists, so
that requests get past "not found".  The readers: :mod:`nova_lxd.tests.fuzz.targets`.

Prints "N passed, N failed, N skipped", where one operation of the document counts one, and one
reader.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nova_lxd.tests.functional.conftest import furnish
from nova_lxd.tests.functional.daemon import REPOSITORY, Daemon
from nova_lxd.tests.fuzz import guided
from nova_lxd.tests.fuzz.confined import ConfinedDaemon
from nova_lxd.tests.fuzz.proxy import Proxy
from nova_lxd.tests.fuzz.targets import TARGETS

# Not one request with one answer, or the end of the daemon by design; without a cluster its
# members are answered with 500, in LXD too.
_LEFT_OUT = re.compile(r"^/internal/|/events$|/websocket$|/wait$|/cluster/members$")
# LXD answers 501 to a method that a path does not have.
_SETTINGS = "[phases.coverage]\nunexpected-methods = []\n"
_NAMES = ("c1", "c2", "default", "lxdbr0", "busybox", "s0", "no-such-thing")
_VERBS = ("get", "put", "post", "patch", "delete", "head")
_TRACEBACK = re.compile(r"^Traceback |failed unexpectedly", re.M)


def document() -> dict[str, Any]:
    """The OpenAPI document, narrowed to what can be fuzzed."""
    done = subprocess.run(
        [sys.executable, "-m", "nova_lxd.lxd.api.openapi"],
        check=True,
        capture_output=True,
        cwd=REPOSITORY,
    )
    spec: dict[str, Any] = json.loads(done.stdout)
    spec["paths"] = {p: item for p, item in spec["paths"].items() if not _LEFT_OUT.search(p)}
    for item in spec["paths"].values():
        for part in (item, *(item[verb] for verb in _VERBS if verb in item)):
            for parameter in part.get("parameters", ()):
                if parameter.get("in") == "path":
                    parameter["schema"] = {"type": "string", "enum": list(_NAMES)}
    return spec


def operations(spec: dict[str, Any]) -> int:
    """How many the document has."""
    return sum(verb in item for item in spec["paths"].values() for verb in _VERBS)


def prepare(daemon: Daemon) -> None:
    """Something of every kind to be hit."""
    furnish(daemon)
    daemon.lxc("launch", "busybox", "c1")
    daemon.lxc("init", "busybox", "c2")
    daemon.lxc("snapshot", "c2", "s0")
    daemon.lxc("storage", "volume", "create", "default", "s0")


def failures(output: str) -> set[str]:
    """The operations for which schemathesis printed a failure."""
    return set(re.findall(r"^_+ ((?:GET|PUT|POST|PATCH|DELETE|HEAD) \S+) _+$", output, re.M))


def fuzz(daemon: Daemon, spec: Path, seconds: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Run schemathesis for about that long."""
    spec.with_name("schemathesis.toml").write_text(_SETTINGS, encoding="utf-8")
    program = Path(sys.executable).with_name("schemathesis")
    with Proxy(daemon.socket) as proxy:
        return subprocess.run(
            [
                str(program if program.exists() else shutil.which("schemathesis")),
                "run",
                str(spec),
                f"--url={proxy.url}",
                "--checks=not_a_server_error",
                "--phases=coverage,fuzzing",
                f"--max-time={seconds}",
                "--max-examples=20",
                "--continue-on-failure",
                "--request-timeout=20",
                "--suppress-health-check=all",
                "--warnings=off",
                "--no-color",
                f"--seed={seed}",
            ],
            capture_output=True,
            text=True,
            env=daemon.environment,
            cwd=spec.parent,
            check=False,
        )


def api(args: argparse.Namespace) -> tuple[int, int]:
    """Fuzz the API; how many operations passed and failed."""
    with ConfinedDaemon("bundled", "fuzz") as daemon:
        prepare(daemon)
        spec = daemon.home / "openapi.json"
        narrowed = document()
        spec.write_text(json.dumps(narrowed), encoding="utf-8")
        pid = daemon.pid
        done = fuzz(daemon, spec, args.seconds, args.seed)
        log = daemon.log.read_text(encoding="utf-8", errors="replace")
        alive = daemon.api("GET", "/1.0").status == 200 and daemon.pid == pid
        outside = daemon.outside()
        if args.log:
            args.log.write_text(log, encoding="utf-8")
    print(done.stdout, done.stderr, sep="")
    tracebacks = len(_TRACEBACK.findall(log))
    print(f"tracebacks in the log: {tracebacks}; the daemon is {'alive' if alive else 'DEAD'}")
    print(f"files written or wanted outside the state directory: {len(outside)}")
    for line in outside:
        print(f"  {line}")
    failed = len(failures(done.stdout)) + bool(tracebacks) + bool(outside) + (not alive)
    if done.returncode != 0 and not failed:
        failed = 1
    return max(0, operations(narrowed) - failed), failed


def readers(args: argparse.Namespace) -> tuple[int, int]:
    """Fuzz the readers side by side; how many passed and failed."""
    names = args.readers.split(",")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(
            pool.map(lambda name: guided.run(name, args.each, args.seed, args.keep), names)
        )
    for outcome in outcomes:
        verdict = "FAILED" if outcome.find else "passed"
        print(f"reader {outcome.target}: {verdict}, {outcome.inputs} inputs")
        if outcome.find:
            print(outcome.find)
    failed = sum(bool(outcome.find) for outcome in outcomes)
    return len(outcomes) - failed, failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nova_lxd.tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=90, help="for the API, 0 for not at all")
    parser.add_argument("--each", type=int, default=20, help="for a reader, 0 for not at all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--keep", type=Path, help="put inputs that are finds here")
    parser.add_argument("--log", type=Path, help="keep the daemon's log here")
    return parser


def main() -> int:
    """Fuzz; 1 when something was found."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that daemons are removed
    args = _parser().parse_args()
    counts = [api(args)] if args.seconds else []
    counts += [readers(args)] if args.each else []
    passed, failed = (sum(column) for column in zip(*counts, strict=True))
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
