# SPDX-License-Identifier: Apache-2.0
"""The command line of tools/kernel/run."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from kernel.machine import KERNEL, Machine, MachineError, build_image

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = "nova_lxd/tests/kernel"
# The second boot finds what the first one left, as a host that was switched off.
BOOTS = ("first", "again")
_LAST_LINES = 60

EPILOG = f"""\
The tests are in {TESTS}; they run in the machine with this Python environment and this
checkout, which it sees by hostfs. Its console and its journal stay in the directory of --keep.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/kernel/run",
        description="Run the daemon's tests for a host with systemd, AppArmor, cgroup v2 alone "
        f"and project quotas in User Mode Linux ({KERNEL}).",
        epilog=EPILOG,
    )
    parser.add_argument("--report", type=Path, help="write a JUnit report of all tests here")
    parser.add_argument("--keep", type=Path, help="leave logs in this directory")
    parser.add_argument("--seconds", type=float, default=900, help="time for each boot")
    parser.add_argument("-k", dest="only", default="", help="as pytest's: only these tests")
    parser.add_argument("--boot", action="append", choices=BOOTS, help="only this boot")
    return parser


def _shares(images: Iterable[Path]) -> list[Path]:
    """What the tests need of the host: Python, its environment, the checkout, the images."""
    wanted = [REPOSITORY, Path(sys.prefix), *(path.parent for path in images)]
    if sys.base_prefix != "/usr":  # the machine has Debian's own
        wanted.append(Path(sys.base_prefix))
    unique = list(dict.fromkeys(wanted))
    return [path for path in unique if not any(other in path.parents for other in unique)]


def _script(boot: str, only: str, image: Sequence[Path]) -> str:
    """What the machine runs: the tests of one boot, then its journal."""
    pytest = [
        sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=240",
        f"--junitxml=/run/task/{boot}.xml", "-k", only, f"{TESTS}/{boot}",
    ]  # fmt: skip
    return f"""\
cd {REPOSITORY}
export HOME=/root LC_ALL=C.UTF-8 NOVA_LXD_MACHINE=1 NOVA_LXD_IMAGE={shlex.join(map(str, image))!r}
{shlex.join(pytest)} > /run/task/{boot}.log 2>&1
journalctl --no-pager --output=short-precise > /run/task/{boot}.journal
"""


def _merge(parts: Sequence[Path], report: Path) -> int:
    """Write all the parts' test suites as one report; the number of tests that did not pass."""
    whole, bad = ET.Element("testsuites"), 0
    for part in parts:
        whole.extend(ET.parse(part).getroot().iter("testsuite"))
    for suite in whole:
        bad += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    ET.ElementTree(whole).write(report, encoding="utf-8", xml_declaration=True)
    return bad


def _tail(path: Path) -> str:
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    )
    return "\n".join(lines[-_LAST_LINES:])


def run(args: argparse.Namespace, directory: Path) -> int:
    """Boot the machine as often as asked for; the number of tests that did not pass."""
    begun = time.monotonic()
    [disk], image = build_image("machine"), build_image("busybox")
    print(f"images: {time.monotonic() - begun:.0f} s", flush=True)
    machine = Machine(directory, disk, _shares(image))
    reports = []
    for boot in args.boot or BOOTS:
        begun = time.monotonic()
        console = directory / f"{boot}.console"
        try:
            machine.boot(_script(boot, args.only, image), console, args.seconds)
        finally:
            print(_tail(machine.task / f"{boot}.log"))
            print(f"boot '{boot}': {time.monotonic() - begun:.0f} s", flush=True)
        report = machine.task / f"{boot}.xml"
        if not report.exists():
            raise MachineError(f"The tests of boot '{boot}' did not run:\n{_tail(console)}")
        reports.append(report)
    return _merge(reports, args.report or directory / "report.xml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 when every test passed."""
    args = _parser().parse_args(argv)
    # A machine that nobody waits for must not go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if os.geteuid() != 0:
        print("tools/kernel/run: run it as root: the machine's files belong to root")
        return 1
    try:
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            return 1 if run(args, args.keep.resolve()) else 0
        with tempfile.TemporaryDirectory(prefix="nova-lxd-machine-") as directory:
            return 1 if run(args, Path(directory)) else 0
    except (MachineError, OSError) as exc:
        print(f"tools/kernel/run: {exc}", file=sys.stderr)
        return 1
