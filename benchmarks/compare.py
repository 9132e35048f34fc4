# SPDX-License-Identifier: Apache-2.0
"""Measure the bundled daemon and real LXD in turn, and print the ratios.

    python3 -m benchmarks.compare --quick                       about two minutes, for CI
    python3 -m benchmarks.compare --debian --json r.json --svg r.svg --rst r.rst
    python3 -m benchmarks.compare --cases exec,files --scale 0.5
    python3 -m benchmarks.compare --socket /var/lib/lxd/unix.socket   any one daemon, as it runs

Needs root, and what the functional tests need.  Each daemon runs in namespaces of its own.  Every
case runs on one daemon and then on the other, so that drift of the machine hits both alike.
It ends with "N passed, N failed, N skipped": a case fails when a daemon refuses it, never because
of its time.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.cases import CASES
from benchmarks.client import BenchmarkError
from benchmarks.subject import Image, Subject
from nova_lxd.tests.functional.conftest import build_image
from nova_lxd.tests.functional.daemon import BACKENDS, Daemon

_QUICK_SCALE = 0.1
_DEBIAN_ONLY = ("debian", "debian-dir")
# Long, and of many samples already: not repeated in further rounds.
_ONCE = ("crowd",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backends", default="lxd,bundled", help="the first is the measure")
    parser.add_argument("--socket", type=Path, help="measure the daemon behind this socket alone")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all counts")
    parser.add_argument("--rounds", type=int, default=1, help="how often all cases run in turn")
    parser.add_argument("--quick", action="store_true", help="small counts, no Debian")
    parser.add_argument("--debian", action="store_true", help="measure with Debian as well")
    parser.add_argument("--json", type=Path, help="write all samples here")
    parser.add_argument("--svg", type=Path, help="draw the ratios here")
    parser.add_argument("--rst", type=Path, help="write the table for the documentation here")
    return parser


def images(debian: bool) -> dict[str, Image]:
    """The test images, built unless they are kept already."""
    kinds = ["busybox", "debian"] if debian else ["busybox"]
    artifacts = ("metadata.tar.xz", "rootfs.squashfs")
    return {kind: Image(*build_image(kind, *artifacts)) for kind in kinds}


def _subjects(args: argparse.Namespace, stack: ExitStack) -> dict[str, Subject]:
    """The furnished daemons by name."""
    built = images(args.debian)
    if args.socket:
        subject = Subject(args.socket.resolve(), built)
        subject.furnish()
        stack.callback(subject.clear)
        return {"daemon": subject}
    subjects = {}
    for name in args.backends.split(","):
        daemon = stack.enter_context(Daemon(name, "bench"))
        subjects[name] = Subject(daemon.socket, built)
        subjects[name].furnish()
        # As a host's daemon is: started on what it has, not having just made it.
        daemon.restart()
    return subjects


def measure(
    subjects: Mapping[str, Subject], cases: list[str], scale: float
) -> tuple[int, int, int]:
    """Run the cases on every daemon in turn: (passed, failed, skipped)."""
    passed = failed = skipped = 0
    for case in cases:
        for name, subject in subjects.items():
            if case in _DEBIAN_ONLY and "debian" not in subject.images:
                skipped += 1
                continue
            began = time.monotonic()
            try:
                CASES[case](subject, scale)
            except (BenchmarkError, AssertionError, OSError) as exc:
                failed += 1
                print(f"FAILED {case} on {name}: {exc}", file=sys.stderr)
            else:
                passed += 1
                took = time.monotonic() - began
                print(f"{case} on {name}: {took:.1f} s", file=sys.stderr)
    return passed, failed, skipped


def main() -> int:
    """Run the cases and print the table; 1 when a case failed on a daemon."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that daemons are removed
    parser = _parser()
    args = parser.parse_args()
    cases = args.cases.split(",")
    unknown = [name for name in args.backends.split(",") if name not in BACKENDS]
    unknown += [name for name in cases if name not in CASES]
    if unknown:
        parser.error(f"no such back end or case: {', '.join(unknown)}")
    scale = _QUICK_SCALE if args.quick else args.scale
    with ExitStack() as stack:
        subjects = _subjects(args, stack)
        again = [case for case in cases if case not in _ONCE]
        passed, failed, skipped = measure(subjects, cases + again * (args.rounds - 1), scale)
        results = {name: subject.results for name, subject in subjects.items()}
    print(report.markdown(results))
    if args.json:
        text = json.dumps(report.as_json(results), indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    if args.svg:
        args.svg.write_text(report.chart(results), encoding="utf-8")
    if args.rst:
        args.rst.write_text(report.rst(results), encoding="utf-8")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
