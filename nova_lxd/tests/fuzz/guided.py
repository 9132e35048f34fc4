# SPDX-License-Identifier: Apache-2.0
"""One target under atheris, Google's coverage-guided fuzzer: ``guided TARGET --seconds N``.

Runs in a process of its own, because libFuzzer ends the process that it runs in.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
# Beside the seeds: what the fuzzer found once, kept so that it stays found.
FIND_PREFIX = "find-"
# One input may take this long; a reader that needs more can be used to stop the daemon.
_INPUT_SECONDS = 10
_MEMORY_MB = 2048
# Only the readers themselves: instrumenting takes a second for every few modules.
_INSTRUMENTED = [
    "nova_lxd.lxd.api.filters",
    "nova_lxd.lxd.api.patterns",
    "nova_lxd.lxd.devices.proxy_address",
    "nova_lxd.lxd.host.idmap",
    "nova_lxd.lxd.images.metadata",
    "nova_lxd.lxd.images.remotes",
    "nova_lxd.lxd.images.tarstream",
    "nova_lxd.lxd.instances.backupindex",
    "nova_lxd.lxd.instances.metadata",
    "nova_lxd.lxd.instances.migration.wire",
    "nova_lxd.lxd.instances.pongo",
    "nova_lxd.lxd.instances.pongosyntax",
    "nova_lxd.lxd.instances.templates",
    "nova_lxd.lxd.schema.cron",
    "nova_lxd.lxd.schema.instancevalues",
    "nova_lxd.lxd.storage.archive_rules",
    "nova_lxd.lxd.storage.unpack_child",
    "nova_lxd.virt.images.extract",
]


@dataclass(frozen=True)
class Outcome:
    """What a target's run came to; ``find`` is empty when all was well."""

    target: str
    inputs: int
    find: str = ""


def seeds(target: str) -> list[Path]:
    """The inputs of a target that are kept in the repository."""
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())


def run(target: str, seconds: int, seed: int, keep: Path | None = None) -> Outcome:
    """Fuzz one target for that long.

    :param keep: directory for an input that is a find.
    """
    with tempfile.TemporaryDirectory(prefix="nova-lxd-fuzz-") as scratch:
        argv = [
            sys.executable, "-m", "nova_lxd.tests.fuzz.guided", target,
            "--seconds", str(seconds), "--seed", str(seed), "--scratch", scratch,
        ]  # fmt: skip
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", check=False,
            cwd=Path(__file__).resolve().parents[3],
        )  # fmt: skip
        counted = re.search(r"Done (\d+) runs? in", done.stderr)
        count = int(counted[1]) if counted else 0
        finds = sorted(Path(scratch).glob("*-*"))
        if done.returncode == 0 and counted and not finds:
            return Outcome(target, count)
        if keep is not None:
            for path in finds:
                (keep / f"{target}-{path.name}").write_bytes(path.read_bytes())
        return Outcome(target, count, done.stderr[-3000:] or f"exit code {done.returncode}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nova_lxd.tests.fuzz.guided", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path())
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz in this process; ends it."""
    import atheris

    args = _parser().parse_args(arguments)
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from nova_lxd.tests.fuzz.targets import TARGETS
    logging.disable()
    tempfile.tempdir = str(args.scratch.resolve())
    subject = TARGETS[args.target]
    grown = args.scratch / "grown"
    grown.mkdir(exist_ok=True)
    options = [
        sys.argv[0],
        f"-max_total_time={args.seconds}",
        f"-seed={args.seed}",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-artifact_prefix={args.scratch}/",
        "-print_final_stats=0",
        str(grown),
        str(CORPUS / args.target),
    ]
    atheris.Setup(options, subject)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
