# SPDX-License-Identifier: Apache-2.0
"""Measure the bundled daemon and real LXD in turn and print the ratios.

    python3 -m benchmarks.daemon [--backends lxd,bundled] [--scale 0.2] [--cases exec,files]

Needs root, and what the functional tests need.  Each daemon runs in namespaces of its own; the
order is that of ``--backends`` for every case, so that drift of the machine hits both alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.report import chart, table
from benchmarks.subject import Subject
from nova_lxd.tests.functional.daemon import BACKENDS, Daemon


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.daemon",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backends", default="lxd,bundled", help="the first is the measure")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all counts")
    parser.add_argument("--debian", action="store_true", help="measure with Debian as well")
    parser.add_argument("--json", type=Path, help="write all samples here")
    parser.add_argument("--svg", type=Path, help="draw the ratios here")
    return parser


def main() -> int:
    """Run the cases and print the table; 1 when a case failed on a daemon."""
    args = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    backends = args.backends.split(",")
    unknown = [name for name in backends if name not in BACKENDS]
    unknown += [name for name in args.cases.split(",") if name not in CASES]
    if unknown:
        print(f"benchmarks.daemon: no such back end or case: {', '.join(unknown)}")
        return 2
    failed = 0
    with ExitStack() as stack:
        subjects = {}
        for name in backends:
            subject = Subject(stack.enter_context(Daemon(name, "bench")))
            subject.furnish(args.debian)
            subjects[name] = subject
        for case in args.cases.split(","):
            for name, subject in subjects.items():
                print(f"# {case} on {name}", file=sys.stderr)
                try:
                    CASES[case](subject, args.scale)
                except Exception as exc:
                    failed = 1
                    print(f"benchmarks.daemon: {case} failed on {name}: {exc}", file=sys.stderr)
        results = {name: subject.results for name, subject in subjects.items()}
    print(table(results))
    if args.json:
        machine = {"kernel": platform.release(), "machine": platform.machine()}
        data = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine,
            "results": {name: [vars(each) for each in found] for name, found in results.items()},
        }
        args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if args.svg:
        args.svg.write_text(chart(results), encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main())
